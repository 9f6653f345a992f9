import type { LinearWeights } from './model-source.ts'
import { rotate, rotationSize } from './rotation.ts'

/** Values that share a scale, in every quantised form. */
export const BLOCK_LENGTH = 32

/** Writes a block of 32 values in 0…15 as bytes of elements 2j (low) and 2j + 1 (high). */
export function packNibbles(block: Uint8Array, quants: Uint8Array, blockIndex: number): void {
  const out = blockIndex * 16
  for (let j = 0; j < 16; j++) {
    quants[out + j] = (block[2 * j] ?? 0) | ((block[2 * j + 1] ?? 0) << 4)
  }
}

/** The values that quantised weights stand for, in float32, rounded once each. */
export function expandWeights(weights: LinearWeights): Float32Array {
  if (weights.form === 'f32') return weights.values
  if (weights.form === 'rotated8') return expandRotated(weights)
  const { quants, scales } = weights
  const values = new Float32Array(scales.length * BLOCK_LENGTH)
  for (let i = 0; i < values.length; i++) {
    const block = i >> 5
    const scale = scales[block] ?? 0
    if (weights.form === 'q8') {
      values[i] = scale * (quants[i] ?? 0)
    } else {
      const quant = ((quants[i >> 1] ?? 0) >> ((i & 1) * 4)) & 15
      values[i] = scale * quant + (weights.mins[block] ?? 0)
    }
  }
  return values
}

function expandRotated({ quants, scales }: LinearWeights & { form: 'rotated8' }): Float32Array {
  const inputSize = quants.length / scales.length
  const values = Float32Array.from(
    quants,
    (quant, i) => (scales[Math.floor(i / inputSize)] ?? 0) * quant,
  )
  rotate(values, rotationSize(inputSize))
  return values
}

/** The same weights with row `order[i]` as row i. */
export function reorderRows(weights: LinearWeights, order: readonly number[]): LinearWeights {
  switch (weights.form) {
    case 'f32':
      return { form: 'f32', values: pickRows(weights.values, order) }
    case 'q4':
      return {
        form: 'q4',
        quants: pickRows(weights.quants, order),
        scales: pickRows(weights.scales, order),
        mins: pickRows(weights.mins, order),
      }
    case 'q8':
    case 'rotated8':
      return {
        form: weights.form,
        quants: pickRows(weights.quants, order),
        scales: pickRows(weights.scales, order),
      }
  }
}

function pickRows<T extends Float32Array | Uint8Array | Int8Array>(
  rows: T,
  order: readonly number[],
): T {
  const rowLength = rows.length / order.length
  const picked = rows.slice() as T // `slice` of a typed array is of the same type
  order.forEach((from, to) => {
    picked.set(rows.subarray(from * rowLength, (from + 1) * rowLength), to * rowLength)
  })
  return picked
}
