import { type AdapterPool, type AdapterShape, POOL_SIZE } from './adapter-pool.ts'
import type { EngineBench } from './context.ts'
import type { PeerContext } from './peer/llama-cpp.ts'
import { ensureLoraGguf } from './peer/lora-file.ts'
import { compareSpeed, describeSpeeds, runRounds, type Sample, timeTokens } from './rounds.ts'
import { CONTEXT, decodeOwn, decodeRows, drawPrompts, fill } from './step.ts'

const BATCH = POOL_SIZE
const STEPS = 16
const ROUNDS = 3

/** Sixteen requests, each on an adapter of its own, in one batch. */
export async function benchBatchAdapters(bench: EngineBench, pool: AdapterPool): Promise<void> {
  const prompts = drawPrompts(bench, BATCH)
  const asks = prompts.map((promptTokens) => ({ promptTokens }))
  const rounds = Math.max(1, Math.round(ROUNDS * bench.scale))
  const peerRun = await openPeerRun(bench, pool)
  const small = await loadAll(bench, pool, 'r=8 on q, v')
  const large = await loadAll(bench, pool, 'r=16 on all modules')
  const decodeOn = (digests: readonly string[]) => () =>
    decodeOwn(
      bench,
      asks.map((fields, i) => ({ ...fields, adapter: digests[i] ?? null })),
      STEPS,
    )
  const own = { base: decodeOn([]), small: decodeOn(small), large: decodeOn(large) }
  for (const run of Object.values(own)) await run()
  const samples = await runRounds(rounds, { ...own, peer: peerRun.run })
  await peerRun.close()
  for (const digest of [...small, ...large]) await bench.engine.unloadAdapter(digest)
  const row = (name: string, from: readonly Sample[], to: readonly Sample[], value: number) =>
    bench.add({
      bench: '16 requests on 16 adapters',
      name,
      figure: compareSpeed(from, to),
      target: { kind: 'at least', value },
      context: describeSpeeds(from, to),
    })
  row('r=8 on q, v, against llama.cpp Q4_0, one LoRA a sequence', samples.small, samples.peer, 5)
  row('r=8 on q, v, against our base', samples.small, samples.base, 0.95)
  row('r=16 on all modules, against our base', samples.large, samples.base, 0.75)
}

async function loadAll({ engine }: EngineBench, pool: AdapterPool, shape: AdapterShape) {
  const digests: string[] = []
  for (let index = 0; index < BATCH; index++) {
    const weights = await pool.read(shape, index)
    await engine.loadAdapter(weights)
    digests.push(weights.digest)
  }
  return digests
}

/**
 * llama.cpp has one adapter for all that it decodes at once: a step of sixteen adapters is sixteen
 * decodes. Each sequence has a context of its own, whose adapter never changes, which spares it
 * every change of its graph.
 */
async function openPeerRun(bench: EngineBench, pool: AdapterPool) {
  const { models, flashAttention } = await bench.peer()
  const contexts: PeerContext[] = []
  for (let index = 0; index < BATCH; index++) {
    const lora = await models.Q4_0.loadLora(await ensureLoraGguf(pool.pathOf('r=8 on q, v', index)))
    const context = await models.Q4_0.openContext({
      sequenceCount: 1,
      sequenceTokens: 2 * CONTEXT,
      threadCount: bench.threadCount,
      flashAttention: flashAttention.decode,
    })
    context.setLora(lora)
    await fill(bench, context, 1)
    contexts.push(context)
  }
  const run = async () => {
    const sample = await timeTokens(BATCH * STEPS, async () => {
      for (let step = 0; step < STEPS; step++) {
        for (const context of contexts) await context.decode(decodeRows(bench, 1, CONTEXT + step))
      }
    })
    for (const context of contexts) context.forget(0, CONTEXT)
    return sample
  }
  await run()
  const close = async () => {
    for (const context of contexts) await context.close()
  }
  return { run, close }
}
