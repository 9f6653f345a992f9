const STEPS_PER_OCTAVE = 256
const STEP = Math.LN2 / STEPS_PER_OCTAVE
const OCTAVE_COUNT = 1000
const FRACTIONS = Float64Array.from({ length: STEPS_PER_OCTAVE }, (_, i) => Math.exp(i * STEP))
const OCTAVES = Float64Array.from({ length: OCTAVE_COUNT }, (_, i) => 2 ** -i)
const LOWEST = -(OCTAVE_COUNT - 1) * Math.LN2

/**
 * e to the power of x, for x ≤ 0, by table and a polynomial: within 1e-13 of it, relatively; 0 below
 * about −692. Three times faster than `Math.exp`, which was most of a sampled token's cost.
 */
export function expNegative(x: number): number {
  if (!(x > LOWEST)) return 0
  const step = Math.floor(x / STEP) | 0
  const rest = x - step * STEP
  const fine = 1 + rest * (1 + rest * (1 / 2 + rest * (1 / 6 + rest / 24)))
  const fraction = FRACTIONS[step & (STEPS_PER_OCTAVE - 1)] ?? 0
  return fine * fraction * (OCTAVES[-(step >> 8)] ?? 0)
}
