import type { LinearWeights } from '../model/model-source.ts'

/** Rows `tokens` of the embedding table [V, H], in float32: [T, H]. */
export function lookUpEmbeddings(
  table: LinearWeights,
  tokens: Int32Array,
  hiddenSize: number,
): Float32Array {
  const rows = new Float32Array(tokens.length * hiddenSize)
  tokens.forEach((token, t) => {
    const start = token * hiddenSize
    const row = rows.subarray(t * hiddenSize, (t + 1) * hiddenSize)
    switch (table.form) {
      case 'f32':
        row.set(table.values.subarray(start, start + hiddenSize))
        break
      case 'q4':
        for (let i = 0; i < hiddenSize; i++) {
          const at = start + i
          const quant = ((table.quants[at >> 1] ?? 0) >> (4 * (at & 1))) & 15
          row[i] = (table.scales[at >> 5] ?? 0) * quant + (table.mins[at >> 5] ?? 0)
        }
        break
      case 'q8':
        for (let i = 0; i < hiddenSize; i++) {
          const at = start + i
          row[i] = (table.scales[at >> 5] ?? 0) * (table.quants[at] ?? 0)
        }
        break
      case 'rotated8':
        throw new TypeError('An embedding table is not rotated.')
    }
  })
  return rows
}
