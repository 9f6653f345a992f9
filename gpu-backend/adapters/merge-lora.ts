import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import type { AdapterMerge } from '../../protocol/adapter-merge.ts'
import type { Digest } from '../../protocol/digest.ts'
import { BackendError } from '../errors.ts'
import type { LoraModule, LoraModuleKey, LoraWeights } from './lora-weights.ts'

/** An adapter and what it counts in a merge. */
export interface WeighedLora {
  readonly weights: LoraWeights
  readonly weightPpm: number
}

type MergeRule = Pick<AdapterMerge, 'method' | 'densityPpm'>

/** The part of a member that one linear layer gets. */
interface Part {
  readonly digest: Digest
  readonly module: LoraModule
  /** Weight and scale in one, as PEFT's `add_weighted_adapter` takes them. */
  readonly factor: number
}

/** The two matrices of a module, by their names in {@link LoraModule}. */
type Side = 'a' | 'b'

const PPM = 1_000_000

const MAX_RANK = 256

/** Values between two looks at other work: well under a millisecond. */
const SLICE_LENGTH = 65_536

/**
 * The members, in order, as one adapter. `linear` and `dare_linear` lay their ranks side by side, so
 * that what they compute adds up exactly; DARE drops values of both matrices independently, so
 * that the sum is right in the mean. `ties` and `dare_ties` work value by value on A and on B as PEFT
 * does (`merge_utils.py`), which needs equal ranks. In slices, with everybody else's streams in
 * between. Throws `adapter_rejected` for adapters that cannot be merged.
 */
export async function mergeLora(
  members: readonly WeighedLora[],
  rule: MergeRule,
  digest: Digest,
): Promise<LoraWeights> {
  const keys = new Set(members.flatMap(({ weights }) => [...weights.modules.keys()]))
  const modules = new Map<LoraModuleKey, LoraModule>()
  let sizeBytes = 0
  for (const key of keys) {
    const parts = members.flatMap(({ weights, weightPpm }): Part[] => {
      const module = weights.modules.get(key)
      if (!module) return []
      return [{ digest: weights.digest, module, factor: (weightPpm / PPM) * module.scale }]
    })
    const isLinear = rule.method === 'linear' || rule.method === 'dare_linear'
    const merged = await (isLinear ? concatenate : elect)(key, parts, rule)
    for (const values of [merged.a, merged.b]) await requireFinite(key, values)
    modules.set(key, merged)
    sizeBytes += merged.a.byteLength + merged.b.byteLength
  }
  return { digest, sizeBytes, modules }
}

/** Ranks side by side, each with its own scale in B. */
async function concatenate(
  key: LoraModuleKey,
  parts: readonly Part[],
  rule: MergeRule,
): Promise<LoraModule> {
  const rank = parts.reduce((sum, { module }) => sum + module.rank, 0)
  if (rank > MAX_RANK) {
    throw rejectMerge(`their ranks in ${key} add up to ${rank}, and at most ${MAX_RANK} are served`)
  }
  const join = async (side: Side) => {
    const joined = new Float32Array(parts.reduce((sum, { module }) => sum + module[side].length, 0))
    let offset = 0
    for (const part of parts) {
      const values = await thin(key, part, side, rule)
      const factor = side === 'b' ? part.factor : 1
      const start = offset
      await inSlices(values.length, (from, to) => {
        for (let i = from; i < to; i++) joined[start + i] = (values[i] ?? 0) * factor
      })
      offset += values.length
    }
    return joined
  }
  return { rank, scale: 1, a: await join('a'), b: await join('b') }
}

/**
 * TIES (Yadav et al. 2023): each value's sign is the one with the greater sum, and those of the
 * members that have it are averaged. The factor's root goes to either matrix; the election is held
 * before it, as in PEFT.
 */
async function elect(
  key: LoraModuleKey,
  parts: readonly Part[],
  rule: MergeRule,
): Promise<LoraModule> {
  const ranks = new Set(parts.map(({ module }) => module.rank))
  const [rank = 0] = ranks
  if (ranks.size > 1) {
    const all = [...ranks].sort((a, b) => a - b).join(' and ')
    throw rejectMerge(`'${rule.method}' needs equal ranks, and ${key} has ${all}`)
  }
  const vote = async (side: Side) => {
    const thinned: Float32Array[] = []
    for (const part of parts) thinned.push(await thin(key, part, side, rule))
    const factors = parts.map(({ factor }) => {
      const root = Math.sqrt(Math.abs(factor))
      return side === 'b' && factor < 0 ? -root : root
    })
    const merged = new Float32Array(thinned[0]?.length ?? 0)
    await inSlices(merged.length, (from, to) => {
      for (let i = from; i < to; i++) merged[i] = averageElected(thinned, factors, i)
    })
    return merged
  }
  return { rank, scale: 1, a: await vote('a'), b: await vote('b') }
}

function averageElected(
  members: readonly Float32Array[],
  factors: readonly number[],
  at: number,
): number {
  let total = 0
  for (const values of members) total += values[at] ?? 0
  let sum = 0
  let count = 0
  for (let m = 0; m < members.length; m++) {
    const value = members[m]?.[at] ?? 0
    if (total >= 0 ? value > 0 : value < 0) {
      sum += value * (factors[m] ?? 0)
      count += 1
    }
  }
  return count === 0 ? 0 : sum / count
}

/** A matrix of a member with the values that its method keeps, the others zero. */
async function thin(
  key: LoraModuleKey,
  { digest, module }: Part,
  side: Side,
  { method, densityPpm }: MergeRule,
): Promise<Float32Array> {
  const values = module[side]
  if (densityPpm === null || densityPpm === PPM) return values
  return method === 'ties'
    ? keepLargest(values, Math.floor((values.length * densityPpm) / PPM))
    : keepAtRandom(values, densityPpm, `${digest} ${key} ${side} ${densityPpm}`)
}

const ABSOLUTE = 0x7fff_ffff

/**
 * The `count` values of the largest magnitude, of equal ones the first: the bits of floats order as
 * their magnitudes do, so the smallest that stays is found by counting.
 */
async function keepLargest(values: Float32Array, count: number): Promise<Float32Array> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const high = new Uint32Array(2 ** 15)
  await inSlices(values.length, (from, to) => {
    for (let i = from; i < to; i++) addOne(high, ((bits[i] ?? 0) & ABSOLUTE) >>> 16)
  })
  const upper = findBin(high, count)
  const low = new Uint32Array(2 ** 16)
  await inSlices(values.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const magnitude = (bits[i] ?? 0) & ABSOLUTE
      if (magnitude >>> 16 === upper.bin) addOne(low, magnitude & 0xffff)
    }
  })
  const lower = findBin(low, upper.missing)
  const least = upper.bin * 2 ** 16 + lower.bin
  const kept = new Float32Array(values.length)
  let equalCount = lower.missing
  await inSlices(values.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const magnitude = (bits[i] ?? 0) & ABSOLUTE
      if (magnitude < least || (magnitude === least && equalCount-- <= 0)) continue
      kept[i] = values[i] ?? 0
    }
  })
  return kept
}

function addOne(counts: Uint32Array, bin: number): void {
  counts[bin] = (counts[bin] ?? 0) + 1
}

/** The bin that the `count`-th from the top lies in, and which of its own it is. */
function findBin(counts: Uint32Array, count: number) {
  let missing = count
  for (let bin = counts.length - 1; bin >= 0; bin--) {
    const here = counts[bin] ?? 0
    if (missing <= here) return { bin, missing }
    missing -= here
  }
  return { bin: 0, missing: 0 }
}

/** DARE (Yu et al. 2023): each value stays with the chance of the density, and grows by as much. */
async function keepAtRandom(
  values: Float32Array,
  densityPpm: number,
  name: string,
): Promise<Float32Array> {
  const draw = createWords(name)
  const limit = Math.floor((densityPpm * 2 ** 32) / PPM)
  const growth = PPM / densityPpm
  const kept = new Float32Array(values.length)
  await inSlices(values.length, (from, to) => {
    for (let i = from; i < to; i++) if (draw() < limit) kept[i] = (values[i] ?? 0) * growth
  })
  return kept
}

/** Random uint32 by xoshiro128** (Blackman and Vigna 2018), from SHA-256 of a name: the same anywhere. */
function createWords(name: string): () => number {
  const seed = createHash('sha256').update(`tallygate dare 1\n${name}\n`).digest()
  let [s0, s1, s2, s3] = [0, 4, 8, 12].map((at) => seed.readInt32LE(at)) as [
    number,
    number,
    number,
    number,
  ] // four offsets give four words
  return () => {
    const scaled = Math.imul(s1, 5)
    const word = Math.imul((scaled << 7) | (scaled >>> 25), 9) >>> 0
    const shifted = s1 << 9
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    s3 = (s3 << 11) | (s3 >>> 21)
    return word
  }
}

async function requireFinite(key: LoraModuleKey, values: Float32Array): Promise<void> {
  let sum = 0 // infinity · 0 and NaN · 0 are NaN, which no sum loses
  await inSlices(values.length, (from, to) => {
    for (let i = from; i < to; i++) sum += (values[i] ?? 0) * 0
  })
  if (sum !== 0) throw rejectMerge(`their values in ${key} are too large for 32-bit floats`)
}

async function inSlices(length: number, visit: (from: number, to: number) => void): Promise<void> {
  for (let from = 0; from < length; from += SLICE_LENGTH) {
    visit(from, Math.min(length, from + SLICE_LENGTH))
    await setImmediate()
  }
}

/** `adapter_rejected` for adapters that are well by themselves. */
export function rejectMerge(why: string, cause?: unknown): BackendError {
  const message = `The adapters cannot be merged: ${why}.`
  return new BackendError('adapter_rejected', message, { param: 'tallygate.adapters', cause })
}
