/**
 * Values that are rotated together. 64 spread the few large activations of a Llama over enough others
 * for one scale a token; more would cost more than they gain.
 */
const MAX_ROTATION = 64

/** The rotation's size for a layer of so many inputs: the largest power of two that divides them, up to 64. */
export function rotationSize(inputSize: number): number {
  let size = MAX_ROTATION
  while (inputSize % size !== 0) size /= 2
  return size
}

/** [size, size], orthogonal, symmetric and so its own inverse (Sylvester's Hadamard matrix over √size). */
export function rotationMatrix(size: number): Float32Array {
  const matrix = new Float32Array(size * size)
  for (let row = 0; row < size; row++) matrix[row * size + row] = 1
  rotate(matrix, size)
  return matrix
}

/** Multiplies each `size` values by the rotation matrix, in place: the fast Walsh–Hadamard transform. */
export function rotate(values: Float32Array, size: number): void {
  const scale = 1 / Math.sqrt(size)
  for (let start = 0; start < values.length; start += size) {
    const end = start + size
    for (let half = 1; half < size; half *= 2) {
      for (let group = start; group < end; group += 2 * half) {
        for (let i = group; i < group + half; i++) {
          const left = values[i] ?? 0
          const right = values[i + half] ?? 0
          values[i] = left + right
          values[i + half] = left - right
        }
      }
    }
    for (let i = start; i < end; i++) values[i] = (values[i] ?? 0) * scale
  }
}
