import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { ensureModel, modelCacheDir } from '../gpu-backend/model/pull.ts'
import { BENCH_CACHE_FOLDER } from './cache-folder.ts'
import { DEFAULT_MINUTES, ENGINE_BENCH_NAMES, measureEngine } from './engine/index.ts'
import { soak } from './engine/soak.ts'
import { measureGateway } from './gateway/measure-gateway.ts'
import { measureQuality } from './quality.ts'

/**
 * `npm run bench -- [name …]`: prints prose, then one line of JSON with the figures of each bench; all
 * but the soak where none is named. `--write` puts figures into the documents that quote them.
 */

interface BenchContext {
  /** Path of the default model, or of `--model`. */
  readonly loadModel: () => Promise<string>
  readonly threadCount: number
}

type Bench = (context: BenchContext) => Promise<object>

const BENCHES: Readonly<Record<string, Bench>> = {
  engine: async ({ loadModel, threadCount }) =>
    measureEngine({
      modelPath: await loadModel(),
      threadCount,
      cacheDir: BENCH_CACHE_FOLDER,
      names: readParts(values.only),
      minutes: readNumber('minutes', values.minutes ?? String(DEFAULT_MINUTES)),
      isWritten: values.write,
    }),
  gateway: () => measureGateway({ isWriting: values.write, isQuick: values.quick }),
  quality: async ({ loadModel, threadCount }) => measureQuality(await loadModel(), threadCount),
  soak: async ({ loadModel }) =>
    soak({
      modelPath: await loadModel(),
      minutes: readNumber('minutes', values.minutes ?? '30'),
      seed: readNumber('seed', values.seed),
    }),
}

/** Not among those that run where none is named. */
const LONG: ReadonlySet<string> = new Set(['soak'])

const { values, positionals } = parseArgs({
  options: {
    model: { type: 'string' },
    threads: { type: 'string', default: String(availableParallelism()) },
    /** Of `engine`: its parts, by comma. */
    only: { type: 'string', default: ENGINE_BENCH_NAMES.join() },
    /** Of `engine` and `soak`: how long all windows together are. */
    minutes: { type: 'string' },
    /** Of `soak`. */
    seed: { type: 'string', default: String(1 + (Date.now() % 1_000_000)) },
    write: { type: 'boolean', default: false },
    /** Of `gateway`: one short round. */
    quick: { type: 'boolean', default: false },
  },
  allowPositionals: true,
})

function fail(message: string): never {
  console.error(message)
  process.exit(1)
}

/** Ends the program where the option is no number above zero. */
function readNumber(option: string, text: string): number {
  const value = Number(text)
  return value > 0 ? value : fail(`--${option} takes a number above zero.`)
}

function readParts(text: string): readonly string[] {
  const parts = text.split(',')
  const isKnown = parts.every((part) => ENGINE_BENCH_NAMES.includes(part))
  return isKnown ? parts : fail(`--only takes names of ${ENGINE_BENCH_NAMES.join(', ')}.`)
}

const all = Object.keys(BENCHES)
const names = positionals.length > 0 ? positionals : all.filter((name) => !LONG.has(name))
const unknown = names.find((name) => !all.includes(name))
if (unknown !== undefined) fail(`There is no bench "${unknown}"; there are: ${all.join(', ')}.`)

const context: BenchContext = {
  loadModel: async () =>
    values.model ??
    ensureModel({
      cacheDir: modelCacheDir(process.env),
      hubUrl: process.env.HF_ENDPOINT,
      output: process.stderr,
    }),
  threadCount: readNumber('threads', values.threads),
}
const figures: Record<string, object> = {}
for (const name of names) figures[name] = (await BENCHES[name]?.(context)) ?? {}
console.log(JSON.stringify(figures))
