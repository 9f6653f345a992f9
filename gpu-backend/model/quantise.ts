import type { LinearWeights } from './model-source.ts'
import { rotate, rotationSize } from './rotation.ts'
import { BLOCK_LENGTH, expandWeights, packNibbles } from './weight-blocks.ts'

/** Name the methods below in the digest of a model whose weights they changed. Another method is another name. */
export const QUANTISERS = { int4: 'tallygate-int4/1', int8: 'tallygate-int8/1' } as const

/**
 * The relative error up to which a linear layer is kept in int4. Gaussian weights lose 0.072,
 * Laplace-distributed ones 0.084: beyond 0.08 a tensor has outliers that 16 steps do not hold.
 */
const MAX_INT4_ERROR = 0.08

export type QuantisedWeights = Exclude<LinearWeights, { readonly form: 'f32' }>

export type RotatedWeights = Extract<LinearWeights, { readonly form: 'rotated8' }>

/** int4 where it loses little enough, else int8. `values` are rows of a multiple of 32. */
export function quantiseLinear(values: Float32Array): QuantisedWeights {
  const int4 = quantiseInt4(values)
  return relativeError(values, int4) <= MAX_INT4_ERROR ? int4 : quantiseInt8(values)
}

/** Steps across a block's range that a fit begins with: 15 reaches its extremes, 17 clips them. */
const STEP_COUNTS = [15, 17] as const
const REFINEMENT_COUNT = 3

/**
 * Asymmetric int4: blocks of 32 with `w ≈ scale · q + min`. A fit begins with a line across the
 * block's range (plain min/max first), rounds the weights to it, fits the line to the rounded ones
 * by least squares, and so on; the line with the least squared error wins. Blocks that are of this
 * form already come out as they were.
 */
export function quantiseInt4(values: Float32Array): QuantisedWeights {
  const blockCount = values.length / BLOCK_LENGTH
  const quants = new Uint8Array(blockCount * 16)
  const scales = new Float32Array(blockCount)
  const mins = new Float32Array(blockCount)
  const weights = new Float64Array(BLOCK_LENGTH)
  const rounded = new Uint8Array(BLOCK_LENGTH)
  for (let b = 0; b < blockCount; b++) {
    weights.set(values.subarray(b * BLOCK_LENGTH, (b + 1) * BLOCK_LENGTH))
    const line = fitLine(weights, rounded)
    scales[b] = line.scale
    mins[b] = line.min
    roundToLine(weights, line, rounded)
    packNibbles(rounded, quants, b)
  }
  return { form: 'q4', quants, scales, mins }
}

/** Symmetric int8: blocks of 32 with `w ≈ scale · q`, q in −127…127. */
export function quantiseInt8(values: Float32Array): QuantisedWeights {
  const quants = new Int8Array(values.length)
  const scales = new Float32Array(values.length / BLOCK_LENGTH)
  for (let b = 0; b < scales.length; b++) {
    const start = b * BLOCK_LENGTH
    scales[b] = quantiseInto(quants, values, start, start + BLOCK_LENGTH)
  }
  return { form: 'q8', quants, scales }
}

/**
 * Int8 with one scale a row, the rows' inputs rotated first, which spreads what is large in few of them
 * (QuaRot, arXiv:2404.00456). `values` [out, in] are overwritten.
 */
export function quantiseRotated(values: Float32Array, inputSize: number): RotatedWeights {
  rotate(values, rotationSize(inputSize))
  const quants = new Int8Array(values.length)
  const scales = new Float32Array(values.length / inputSize)
  for (let row = 0; row < scales.length; row++) {
    const start = row * inputSize
    scales[row] = quantiseInto(quants, values, start, start + inputSize)
  }
  return { form: 'rotated8', quants, scales }
}

/** Rounds a range of values to −127…127 of its scale, which it returns. */
function quantiseInto(quants: Int8Array, values: Float32Array, start: number, end: number): number {
  let largest = 0
  for (let i = start; i < end; i++) {
    const size = Math.abs(values[i] ?? 0)
    if (size > largest) largest = size
  }
  const scale = Math.fround(largest / 127)
  if (scale === 0) return 0
  for (let i = start; i < end; i++) quants[i] = Math.round((values[i] ?? 0) / scale)
  return scale
}

/** `‖w − ŵ‖ / ‖w‖`: what quantising lost, as a fraction of the weights; 0 where nothing was lost. */
export function relativeError(values: Float32Array, quantised: LinearWeights): number {
  const kept = expandWeights(quantised)
  let lost = 0
  let whole = 0
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? 0
    lost += (value - (kept[i] ?? 0)) ** 2
    whole += value ** 2
  }
  return lost === 0 ? 0 : Math.sqrt(lost / whole)
}

interface Line {
  readonly scale: number
  readonly min: number
}

function fitLine(weights: Float64Array, rounded: Uint8Array): Line {
  let low = Number.POSITIVE_INFINITY
  let high = Number.NEGATIVE_INFINITY
  for (const weight of weights) {
    if (weight < low) low = weight
    if (weight > high) high = weight
  }
  let best: Line = { scale: 0, min: low }
  let bestError = Number.POSITIVE_INFINITY
  for (const stepCount of STEP_COUNTS) {
    const step = (high - low) / stepCount
    let line = { scale: Math.fround(step), min: Math.fround((low + high - 15 * step) / 2) }
    for (let round = 0; ; round++) {
      const { error, fitted } = roundToLine(weights, line, rounded)
      if (error < bestError) {
        best = line
        bestError = error
      }
      if (round === REFINEMENT_COUNT || error === 0) break
      line = fitted
    }
  }
  return best
}

/**
 * Rounds every weight to the nearest of the line's 16 values. Returns the squared error of that, and
 * the line through the points (q, w) with the least squared error. One pass: this is the inner loop.
 */
function roundToLine(weights: Float64Array, { scale, min }: Line, rounded: Uint8Array) {
  const inverse = scale === 0 ? 0 : 1 / scale
  const offset = 0.5 - min * inverse
  let error = 0
  let sumQ = 0
  let sumQQ = 0
  let sumW = 0
  let sumQW = 0
  for (let i = 0; i < BLOCK_LENGTH; i++) {
    const weight = weights[i] ?? 0
    let quant = (weight * inverse + offset) | 0
    if (quant < 0) quant = 0
    else if (quant > 15) quant = 15
    rounded[i] = quant
    const miss = weight - (scale * quant + min)
    error += miss * miss
    sumQ = (sumQ + quant) | 0
    sumQQ = (sumQQ + quant * quant) | 0
    sumW += weight
    sumQW += quant * weight
  }
  const spread = BLOCK_LENGTH * sumQQ - sumQ * sumQ
  if (spread === 0) return { error, fitted: { scale, min } }
  const slope = (BLOCK_LENGTH * sumQW - sumQ * sumW) / spread
  const intercept = (sumW - slope * sumQ) / BLOCK_LENGTH
  return { error, fitted: { scale: Math.fround(slope), min: Math.fround(intercept) } }
}
