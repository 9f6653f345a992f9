import { createRandom } from '../support/random.ts'

/** Seeded choices of one case. */
export interface Chance {
  readonly random: () => number
  readonly between: (least: number, most: number) => number
  readonly pick: <Item>(items: readonly Item[]) => Item
}

export function createChance(seed: number): Chance {
  const random = createRandom(Math.imul(seed, 0x9e3779b1))
  const between = (least: number, most: number) => least + Math.floor(random() * (most - least + 1))
  return { random, between, pick: (items) => items[between(0, items.length - 1)]! }
}

const LENGTHS = [0n, 1n, 7n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]

/** A copy with a few bits, bytes or lengths changed, something cut out, doubled or put in. */
export function damageBytes(chance: Chance, file: Uint8Array): Uint8Array {
  let bytes: Uint8Array = Uint8Array.from(file)
  for (let left = chance.between(1, 4); left > 0; left--) bytes = damageOnce(chance, bytes)
  return bytes
}

function damageOnce({ between, pick }: Chance, bytes: Uint8Array): Uint8Array {
  if (bytes.byteLength === 0) return Uint8Array.of(between(0, 255))
  const at = between(0, bytes.byteLength - 1)
  const end = Math.min(bytes.byteLength, at + between(1, 40))
  switch (between(0, 6)) {
    case 0:
      bytes[at]! ^= 1 << between(0, 7)
      return bytes
    case 1:
      bytes[at] = pick([0, 1, 0x7f, 0x80, 0xff, 0x22, 0x5c, 0x5b, 0x7b])
      return bytes
    case 2:
      return bytes.subarray(0, at)
    case 3:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)])
    case 4:
      return Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)])
    case 5: {
      if (bytes.byteLength < 8) return bytes
      const place = Math.min(at, bytes.byteLength - 8)
      new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(place, pick(LENGTHS), true)
      return bytes
    }
    default:
      return Buffer.concat([bytes, new Uint8Array(between(1, 100))])
  }
}

/** Numbers, texts and nestings that a field of JSON was not meant to hold. */
export function oddValue({ between, pick }: Chance): unknown {
  return pick<() => unknown>([
    () => null,
    () => -1,
    () => 1e300,
    () => 0.5,
    () => 2 ** 53,
    () => '',
    () => '🦊\u0000',
    () => [],
    () => ({}),
    () => true,
    () => [[-1]],
    () => Array.from({ length: between(0, 50) }, () => between(-2, 5)),
    () => nest(between(1, 2_000)),
    () => 'x'.repeat(between(0, 3_000)),
    () => ['q_proj', 'q_proj'],
    () => '(a|a)*'.repeat(between(1, 20)),
  ])()
}

function nest(depth: number): unknown {
  let value: unknown = []
  for (let level = 0; level < depth; level++) value = [value]
  return value
}
