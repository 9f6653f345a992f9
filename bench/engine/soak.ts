import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readGgufModel } from '../../gpu-backend/model/gguf-model.ts'
import { createRandom } from '../../test/support/random.ts'
import { writeTinyGguf } from '../../test/support/tiny-model.ts'
import { writeAdapters } from './soak/adapter-files.ts'
import { AnswerBook } from './soak/answers.ts'
import { startBackendProcess } from './soak/backend-process.ts'
import { checkRest, type Metrics, type Sample } from './soak/checkpoint.ts'
import { Churn } from './soak/churn.ts'
import { findGrowth } from './soak/flatness.ts'
import { Load } from './soak/load.ts'
import { drawRequests, listBadRequests, type SoakRequest } from './soak/requests.ts'

export interface SoakOptions {
  readonly minutes: number
  readonly seed: number
  /** The last sixth of the time is for this one; before, a tiny one answers far more requests. */
  readonly modelPath: string
}

/** One backend under load: how large, and for how long. */
interface Stage {
  readonly name: string
  readonly modelPath: string
  readonly durationMs: number
  readonly callerCount: number
  readonly requestCount: number
  readonly adapterCount: number
  readonly ramBudgetBytes: number
  readonly env: Readonly<Record<string, string>>
}

const ROUND_COUNT = 40
const MAX_COMPLAINTS = 10

/** A soak in which one of these never happened has shown too little. */
const MUST_HAPPEN = [
  'vllm:num_preemptions_total',
  'vllm:prefix_cache_hits_total',
  'tallygate:adapter_evictions_total',
  'tallygate:requests_total{outcome="cancelled"}',
  'tallygate:errors_total{code="overloaded"}',
  'tallygate:errors_total{code="adapter_rejected"}',
]

/**
 * Random load on whole backends: every kind of answer, several tenants and tiers, callers that leave,
 * adapters that come and go, bad adapters and bad requests. Every answer is compared, to the last bit,
 * with that of a second backend which answers one request at a time. Forty times all callers pause, and
 * what is held then, in memory, KV cache, files and registrations, must be what is registered. Rejects
 * when anything was wrong, with the seed; the same seed asks for the same, though not in the same order.
 */
export async function soak(options: SoakOptions): Promise<object> {
  const folder = await mkdtemp(join(tmpdir(), 'tallygate-soak-'))
  try {
    const tinyPath = join(folder, 'tiny.gguf')
    writeTinyGguf(tinyPath, { seed: options.seed })
    const figures: Record<string, object> = {}
    const complaints: string[] = []
    for (const stage of planStages(options, tinyPath)) {
      const complain = (what: string) => {
        complaints.push(`${stage.name}: ${what}`)
        console.log(complaints.at(-1))
      }
      figures[stage.name] = await playStage(stage, join(folder, stage.name), {
        random: createRandom(options.seed),
        complain,
        isHopeless: () => complaints.length >= MAX_COMPLAINTS,
      })
    }
    if (complaints.length === 0) return figures
    console.log(JSON.stringify(figures))
    throw new Error(`The soak with --seed ${options.seed} failed, first by ${complaints[0]}`)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function planStages({ minutes, modelPath }: SoakOptions, tinyPath: string): readonly Stage[] {
  const env = { MAX_BATCH: '12', MAX_QUEUE: '14', MAX_BODY_BYTES: '65536', THREADS: '1' }
  const totalMs = minutes * 60_000
  return [
    {
      name: 'tiny',
      modelPath: tinyPath,
      durationMs: (totalMs * 5) / 6,
      callerCount: 24,
      requestCount: 60,
      adapterCount: 18,
      ramBudgetBytes: 400_000,
      env: { ...env, KV_TOKENS: '1536' },
    },
    {
      name: 'default',
      modelPath,
      durationMs: totalMs / 6,
      callerCount: 8,
      requestCount: 12,
      adapterCount: 5,
      // Half of it holds the largest, of 3.7 MB, and all of it not quite all five.
      ramBudgetBytes: 7_600_000,
      env: { ...env, KV_TOKENS: '2048', MAX_BATCH: '6', MAX_QUEUE: '3' },
    },
  ]
}

interface Judging {
  readonly random: () => number
  readonly complain: (what: string) => void
  /** Whether enough is known to be wrong. */
  readonly isHopeless: () => boolean
}

async function playStage(
  stage: Stage,
  folder: string,
  { random, complain, isHopeless }: Judging,
): Promise<object> {
  const backends = await startBackends(stage, { folder, random })
  const { subject, alone, owns, adaptersDir } = backends
  const requests = drawRequests(random, stage.requestCount)
  const book = new AnswerBook(alone.url)
  const digests = await findDigests(book, owns, requests)
  const { url, model } = subject
  const churn = new Churn({ url, folder: adaptersDir, contents: owns, random, complain }, 6)
  const load = new Load({
    ...{ url, model, owns, requests, book, churn, random, complain },
    badRequests: listBadRequests(model),
  })
  const samples: Sample[] = []
  const startMs = Date.now()
  let metrics: Metrics = new Map()
  for (let round = 1; round <= ROUND_COUNT && !isHopeless(); round++) {
    await load.run(stage.callerCount, startMs + (stage.durationMs * round) / ROUND_COUNT)
    try {
      const rest = await checkRest({
        ...{ ...backends, backend: subject, ramBudgetBytes: stage.ramBudgetBytes },
        ...{ owns, guests: churn.list(), digests, leftIds: load.leftIds.splice(0) },
      })
      samples.push(rest.sample)
      metrics = rest.metrics
    } catch (error) {
      complain(String(error))
    }
    if (round % 5 === 0)
      console.log(`${stage.name} ${round}/${ROUND_COUNT}`, load.counts, samples.at(-1))
  }
  for (const backend of [subject, alone]) {
    const code = await backend.stop()
    if (code !== 0) complain(`a backend ended with code ${code}`)
    for (const line of backend.complaints) complain(line)
  }
  const growth = findGrowth(samples)
  for (const [name, { isFlat }] of Object.entries(growth)) if (!isFlat) complain(`${name} grows`)
  const happened = Object.fromEntries(MUST_HAPPEN.map((name) => [name, metrics.get(name) ?? 0]))
  for (const [name, count] of Object.entries(happened)) if (count === 0) complain(`${name} is 0`)
  return {
    ...{ minutes: stage.durationMs / 60_000, rightAnswersKnown: book.size },
    ...{ ...load.counts, adapters: churn.counts, happened, growth },
  }
}

/** The one under load, and the one that answers one request at a time. */
async function startBackends(
  stage: Stage,
  { folder, random }: { readonly folder: string; readonly random: () => number },
) {
  const adaptersDir = join(folder, 'adapters')
  const storeDir = join(folder, 'store')
  const temporaryDir = join(folder, 'tmp')
  await mkdir(temporaryDir, { recursive: true })
  const { config } = await readGgufModel(stage.modelPath)
  const owns = await writeAdapters(adaptersDir, config, { random, count: stage.adapterCount })
  const both = { ...stage.env, MODEL: stage.modelPath, ADAPTERS_DIR: adaptersDir }
  const alone = await startBackendProcess({ ...both, MAX_BATCH: '1', PREFIX_SHARING: 'nobody' })
  const subject = await startBackendProcess({
    ...both,
    TMPDIR: temporaryDir,
    ADAPTER_STORE_DIR: storeDir,
    ADAPTER_RAM_BYTES: String(stage.ramBudgetBytes),
  })
  return { subject, alone, owns, adaptersDir, storeDir, temporaryDir }
}

/** Of each adapter, by the answer of the backend that runs it alone. */
async function findDigests(
  book: AnswerBook,
  owns: readonly string[],
  [request]: readonly SoakRequest[],
): Promise<ReadonlyMap<string, string>> {
  const digests = new Map<string, string>()
  for (const name of owns) {
    if (request) digests.set(name, (await book.find(request, name)).adapterDigest)
  }
  return digests
}
