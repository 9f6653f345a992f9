import type { TokenLogprob } from '../engine/engine-port.ts'

/**
 * The natural logarithm of a token's probability by `logits` ([V] float32), and those of the
 * `topCount` likeliest tokens; of equal ones the first come first.
 */
export function measureLogprob(
  logits: Float32Array,
  tokenId: number,
  topCount: number,
): TokenLogprob {
  const topIds = findTop(logits, Math.max(1, topCount))
  const highest = logits[topIds[0] ?? 0] ?? 0
  let mass = 0
  for (let id = 0; id < logits.length; id++) mass += Math.exp((logits[id] ?? 0) - highest)
  const total = highest + Math.log(mass)
  const logprobOf = (id: number) => (logits[id] ?? 0) - total
  return {
    tokenId,
    logprob: logprobOf(tokenId),
    top: topIds.slice(0, topCount).map((id) => [id, logprobOf(id)] as const),
  }
}

/** By insertion: few are wanted, and hardly any logit is among them. */
function findTop(logits: Float32Array, count: number): readonly number[] {
  const ids: number[] = []
  let least = Number.NEGATIVE_INFINITY
  for (let id = 0; id < logits.length; id++) {
    const score = logits[id] ?? Number.NEGATIVE_INFINITY
    if (ids.length === count && score <= least) continue
    let place = ids.length
    while (place > 0 && (logits[ids[place - 1] ?? 0] ?? 0) < score) place--
    ids.splice(place, 0, id)
    if (ids.length > count) ids.pop()
    least = logits[ids.at(-1) ?? 0] ?? 0
  }
  return ids
}
