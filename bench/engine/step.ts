import { createRandom } from '../../test/support/random.ts'
import type { EngineBench, OpenPeer, PeerFile } from './context.ts'
import { PEER_FILES } from './context.ts'
import { type Ask, ask, drawTokens } from './own-engine.ts'
import type { PeerContext, PeerRow } from './peer/llama-cpp.ts'
import type { BenchRow } from './report.ts'
import {
  compareSpeed,
  cpuMs,
  describeSpeeds,
  runRounds,
  type Sample,
  timeTokens,
} from './rounds.ts'

/** What a step costs: decode, prefill and both together, against llama.cpp on the same file and on its fast Q4_0. */

/** Tokens before the first that is decoded. */
export const CONTEXT = 128
const ROUNDS = 3

const random = createRandom(4)

export async function benchDecode(bench: EngineBench): Promise<void> {
  for (const batch of [1, 4, 8, 16, 32]) {
    const stepCount = batch <= 8 ? 32 : 16
    const target = batch === 1 ? [1, 0.9] : batch >= 8 ? [2, 1.1] : [null, null]
    const prompts = drawPrompts(bench, batch)
    await compare(bench, {
      bench: 'decode',
      name: `batch ${batch}`,
      targets: { 'same file': target[0] ?? null, Q4_0: target[1] ?? null },
      own: () =>
        decodeOwn(
          bench,
          prompts.map((promptTokens) => ({ promptTokens })),
          stepCount,
        ),
      openPeerRun: (peer, file) => openPeerDecode(bench, peer, { file, batch, stepCount }),
    })
  }
}

export async function benchPrefill(bench: EngineBench): Promise<void> {
  for (const tokenCount of [128, 512]) {
    await compare(bench, {
      bench: 'prefill',
      name: `${tokenCount} tokens`,
      targets: { 'same file': 2, Q4_0: 1 },
      own: () => {
        const promptTokens = draw(bench, tokenCount)
        return timeTokens(tokenCount, () => ask(bench.engine, { promptTokens, maxTokens: 1 }))
      },
      openPeerRun: async (peer, file) => {
        const context = await openContext(bench, peer, { file, kind: 'prefill', sequenceCount: 1 })
        const run = () => {
          const tokens = Uint32Array.from(draw(bench, tokenCount))
          context.forget(0, 0)
          return timeTokens(tokenCount, () =>
            context.decode([{ sequence: 0, position: 0, tokens }]),
          )
        }
        return { run, close: context.close }
      },
    })
  }
}

export async function benchMixed(bench: EngineBench): Promise<void> {
  for (const [batch, chunk] of [
    [8, 64],
    [16, 128],
  ] as const) {
    const prompts = drawPrompts(bench, batch)
    await compare(bench, {
      bench: 'mixed',
      name: `${batch} decoding, chunks of ${chunk}`,
      targets: { 'same file': 2, Q4_0: 1 },
      own: () => mixOwn(bench, prompts, chunk),
      openPeerRun: async (peer, file) => {
        const context = await openContext(bench, peer, {
          file,
          kind: 'decode',
          sequenceCount: batch + 1,
        })
        await fill(bench, context, batch)
        return { run: () => mixPeer(bench, context, batch, chunk), close: context.close }
      },
    })
  }
}

interface Comparison extends Pick<BenchRow, 'bench' | 'name'> {
  readonly targets: Readonly<Record<PeerFile, number | null>>
  readonly own: () => Promise<Sample>
  readonly openPeerRun: (peer: OpenPeer, file: PeerFile) => Promise<PeerRun>
}

interface PeerRun {
  readonly run: () => Promise<Sample>
  readonly close: () => Promise<void>
}

async function compare(bench: EngineBench, { own, openPeerRun, targets, ...names }: Comparison) {
  const peer = await bench.peer()
  const runs = {
    'same file': await openPeerRun(peer, 'same file'),
    Q4_0: await openPeerRun(peer, 'Q4_0'),
  }
  await own() // prompts are in the prefix cache then, and all memory is touched
  for (const { run } of Object.values(runs)) await run()
  const samples = await runRounds(Math.max(1, Math.round(ROUNDS * bench.scale)), {
    own,
    'same file': runs['same file'].run,
    Q4_0: runs.Q4_0.run,
  })
  for (const { close } of Object.values(runs)) await close()
  for (const file of PEER_FILES) {
    const value = targets[file]
    bench.add({
      bench: names.bench,
      name: `${names.name}, ${file}`,
      figure: compareSpeed(samples.own, samples[file]),
      target: value === null ? null : { kind: 'at least', value },
      context: describeSpeeds(samples.own, samples[file]),
    })
  }
}

/** Prompts whose first `CONTEXT` tokens the prefix cache keeps: with it, all begin to decode in one step. */
export function drawPrompts(bench: EngineBench, count: number): readonly number[][] {
  return Array.from({ length: count }, () => draw(bench, CONTEXT + 1))
}

/** Tokens a second from where all decode until the first ends. */
export async function decodeOwn(
  { engine }: Pick<EngineBench, 'engine'>,
  asks: readonly Omit<Ask, 'maxTokens'>[],
  stepCount: number,
): Promise<Sample> {
  const cpu = process.cpuUsage()
  const answers = await Promise.all(
    asks.map((fields) => ask(engine, { ...fields, maxTokens: stepCount + 2 })),
  )
  const cpuMsPerToken = cpuMs(cpu) / (asks.length * (stepCount + 2))
  const times = answers.map(({ tokenTimesMs }) => tokenTimesMs)
  const startMs = Math.max(...times.map((each) => each[0] ?? 0))
  const endMs = Math.min(...times.map((each) => each.at(-1) ?? 0))
  const tokenCount = times.flat().filter((at) => at > startMs && at <= endMs).length
  return { tokensPerSecond: (1000 * tokenCount) / (endMs - startMs), cpuMsPerToken }
}

async function openPeerDecode(
  bench: EngineBench,
  peer: OpenPeer,
  { file, batch, stepCount }: { file: PeerFile; batch: number; stepCount: number },
): Promise<PeerRun> {
  const options = { file, kind: 'decode', sequenceCount: batch } as const
  const context = await openContext(bench, peer, options)
  await fill(bench, context, batch)
  const run = async () => {
    const sample = await timeTokens(batch * stepCount, async () => {
      for (let step = 0; step < stepCount; step++) {
        await context.decode(decodeRows(bench, batch, CONTEXT + step))
      }
    })
    for (let sequence = 0; sequence < batch; sequence++) context.forget(sequence, CONTEXT)
    return sample
  }
  return { run, close: context.close }
}

const CHUNK_STEPS = 12

/** Decoding requests, and prompts of `chunk` tokens that come as fast as the engine takes them. */
async function mixOwn(
  bench: EngineBench,
  prompts: readonly (readonly number[])[],
  chunk: number,
): Promise<Sample> {
  const { engine } = bench
  const stop = new AbortController()
  let decodedCount = 0
  const decoding: Promise<unknown>[] = []
  const begin = (promptTokens: readonly number[]) =>
    new Promise<void>((resolve) => {
      const onToken = () => {
        decodedCount++
        resolve()
      }
      decoding.push(ask(engine, { promptTokens, maxTokens: 1000, onToken }, stop.signal))
    })
  await Promise.all(prompts.map(begin))
  const decodedBefore = decodedCount
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  const askChunk = () => ask(engine, { promptTokens: draw(bench, chunk), maxTokens: 1 })
  await Promise.all(Array.from({ length: CHUNK_STEPS }, askChunk))
  const seconds = (performance.now() - startedAt) / 1000
  const tokenCount = decodedCount - decodedBefore + CHUNK_STEPS * chunk
  const cpuMsPerToken = cpuMs(cpu) / tokenCount
  stop.abort()
  await Promise.all(decoding)
  return { tokensPerSecond: tokenCount / seconds, cpuMsPerToken }
}

async function mixPeer(bench: EngineBench, context: PeerContext, batch: number, chunk: number) {
  const sample = await timeTokens(CHUNK_STEPS * (batch + chunk), async () => {
    for (let step = 0; step < CHUNK_STEPS; step++) {
      const tokens = Uint32Array.from(draw(bench, chunk))
      const prompt = { sequence: batch, position: 0, tokens }
      await context.decode([...decodeRows(bench, batch, CONTEXT + step), prompt])
      context.forget(batch, 0)
    }
  })
  for (let sequence = 0; sequence < batch; sequence++) context.forget(sequence, CONTEXT)
  return sample
}

async function openContext(
  { threadCount }: EngineBench,
  { models, flashAttention }: OpenPeer,
  options: { file: PeerFile; kind: 'decode' | 'prefill'; sequenceCount: number },
): Promise<PeerContext> {
  return models[options.file].openContext({
    sequenceCount: options.sequenceCount,
    sequenceTokens: options.kind === 'decode' ? 2 * CONTEXT : 512,
    threadCount,
    flashAttention: flashAttention[options.kind],
  })
}

/** Runs a prompt of `CONTEXT` tokens in each of the first sequences. */
export async function fill(bench: EngineBench, context: PeerContext, batch: number): Promise<void> {
  for (let sequence = 0; sequence < batch; sequence++) {
    await context.decode([
      { sequence, position: 0, tokens: Uint32Array.from(draw(bench, CONTEXT)) },
    ])
  }
}

export function decodeRows(bench: EngineBench, batch: number, position: number): PeerRow[] {
  return Array.from({ length: batch }, (_, sequence) => ({
    sequence,
    position,
    tokens: Uint32Array.from(draw(bench, 1)),
  }))
}

export function draw({ engine }: EngineBench, count: number): number[] {
  return drawTokens(random, count, engine.model.config.vocabSize)
}
