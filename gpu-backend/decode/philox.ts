const MULTIPLIERS = [0xd2511f53n, 0xcd9e8d57n] as const
const WEYL = [0x9e3779b9, 0xbb67ae85] as const
const ROUND_COUNT = 10
const LOW_WORD = 0xffffffffn

type Words2 = readonly [number, number]
type Words4 = readonly [number, number, number, number]

/**
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): four random
 * uint32 for each counter and key. It has no state, so a draw depends on nothing that ran before.
 */
export function philox4x32(counter: Words4, key: Words2): Words4 {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < ROUND_COUNT; round++) {
    const left = MULTIPLIERS[0] * BigInt(c0)
    const right = MULTIPLIERS[1] * BigInt(c2)
    c0 = (Number(right >> 32n) ^ c1 ^ k0) >>> 0
    c1 = Number(right & LOW_WORD)
    c2 = (Number(left >> 32n) ^ c3 ^ k1) >>> 0
    c3 = Number(left & LOW_WORD)
    k0 = (k0 + WEYL[0]) >>> 0
    k1 = (k1 + WEYL[1]) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** A uniform number in [0, 1) with 53 random bits, named by a 64-bit seed (two uint32) and a position. */
export function drawUniform(seed: Words2, position: number): number {
  const [high, low] = philox4x32([position, 0, 0, 0], seed)
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53
}
