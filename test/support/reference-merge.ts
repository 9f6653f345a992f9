import { createHash } from 'node:crypto'
import type { LoraModule, LoraWeights } from '../../gpu-backend/adapters/lora-weights.ts'

export interface ReferenceMerge {
  readonly method: 'linear' | 'ties' | 'dare_linear' | 'dare_ties'
  readonly density: number
  readonly members: readonly { readonly weights: LoraWeights; readonly weight: number }[]
}

/**
 * The referee of merges: what each linear layer adds, as one dense matrix in float64, by sorting and
 * plain loops, nothing shared with the code under test. Given as an adapter whose A is the identity.
 */
export function referenceMerge(merge: ReferenceMerge): LoraWeights {
  const keys = new Set(merge.members.flatMap(({ weights }) => [...weights.modules.keys()]))
  const modules = new Map<`${number}.q`, LoraModule>()
  for (const key of keys as Set<`${number}.q`>) {
    const parts = merge.members.flatMap(({ weights, weight }) => {
      const module = weights.modules.get(key)
      return module ? [{ module, weight, digest: weights.digest }] : []
    })
    const thinned = parts.map(({ module, digest }) => ({
      a: thin([...module.a], merge, `${digest} ${key} a`),
      b: thin([...module.b], merge, `${digest} ${key} b`),
    }))
    const factors = parts.map(({ module, weight }) => module.scale * weight)
    const { rank } = parts[0]!.module
    const inputs = parts[0]!.module.a.length / rank
    const outputs = parts[0]!.module.b.length / rank
    const delta = new Float64Array(inputs * outputs)
    if (merge.method === 'linear' || merge.method === 'dare_linear') {
      for (const [i, { a, b }] of thinned.entries()) addProduct(delta, a, b, factors[i]!, inputs)
    } else {
      const roots = factors.map((factor) => Math.sqrt(Math.abs(factor)))
      const a = electSigns(
        thinned.map((part) => part.a),
        roots,
      )
      const signed = roots.map((root, i) => root * Math.sign(factors[i]!))
      const b = electSigns(
        thinned.map((part) => part.b),
        signed,
      )
      addProduct(delta, a, b, 1, inputs)
    }
    const identity = Float32Array.from({ length: inputs * inputs }, (_, i) =>
      i % (inputs + 1) === 0 ? 1 : 0,
    )
    modules.set(key, { rank: inputs, scale: 1, a: identity, b: Float32Array.from(delta) })
  }
  return { digest: `0x${'00'.repeat(32)}`, sizeBytes: 0, modules }
}

/** delta [in, out] += factor · aᵀ [in, R] · b [R, out] */
function addProduct(
  delta: Float64Array,
  a: readonly number[],
  b: readonly number[],
  factor: number,
  inputs: number,
) {
  const rank = a.length / inputs
  const outputs = b.length / rank
  for (let i = 0; i < inputs; i++) {
    for (let o = 0; o < outputs; o++) {
      let sum = 0
      for (let r = 0; r < rank; r++) sum += a[r * inputs + i]! * b[r * outputs + o]!
      delta[i * outputs + o]! += factor * sum
    }
  }
}

function electSigns(members: readonly (readonly number[])[], factors: readonly number[]) {
  return members[0]!.map((_, at) => {
    const sign = members.reduce((sum, values) => sum + values[at]!, 0) >= 0 ? 1 : -1
    const agreeing = members.flatMap((values, m) =>
      Math.sign(values[at]!) === sign ? [values[at]! * factors[m]!] : [],
    )
    return agreeing.reduce((sum, value) => sum + value, 0) / Math.max(1, agreeing.length)
  })
}

function thin(values: number[], { method, density }: ReferenceMerge, name: string): number[] {
  if (method === 'linear' || density === 1) return values
  const densityPpm = Math.round(density * 1_000_000)
  if (method !== 'ties') {
    const words = randomWords(`tallygate dare 1\n${name} ${densityPpm}\n`)
    return values.map((value) =>
      Number(words.next().value) / 2 ** 32 < density ? value / density : 0,
    )
  }
  const count = Number((BigInt(values.length) * BigInt(densityPpm)) / 1_000_000n)
  const order = values.map((_, i) => i)
  order.sort((i, j) => Math.abs(values[j]!) - Math.abs(values[i]!) || i - j)
  const kept = new Set(order.slice(0, count))
  return values.map((value, i) => (kept.has(i) ? value : 0))
}

/** xoshiro128** in big integers, as its authors write it. */
function* randomWords(name: string): Generator<bigint, never> {
  const seed = createHash('sha256').update(name).digest()
  const s = [0, 4, 8, 12].map((at) => BigInt(seed.readUInt32LE(at)))
  const word = (value: bigint) => value & 0xffff_ffffn
  const rotate = (value: bigint, by: bigint) => word((value << by) | (value >> (32n - by)))
  for (;;) {
    yield word(rotate(word(s[1]! * 5n), 7n) * 9n)
    const t = word(s[1]! << 9n)
    s[2]! ^= s[0]!
    s[3]! ^= s[1]!
    s[1]! ^= s[2]!
    s[0]! ^= s[3]!
    s[2]! ^= t
    s[3] = rotate(s[3]!, 11n)
  }
}
