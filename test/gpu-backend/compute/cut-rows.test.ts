import fc from 'fast-check'
import { expect, test } from 'vitest'
import { cutRows } from '../../../gpu-backend/compute/cut-rows.ts'
import type { StepRow } from '../../../gpu-backend/engine/model-runner.ts'

function createRow(tokenCount: number, id: number): StepRow {
  const kv = { id, length: 0, capacity: tokenCount }
  return { kv, tokens: new Int32Array(tokenCount), adapter: null, wantLogits: false }
}

const countTokens = (rows: readonly StepRow[]) =>
  rows.reduce((sum, { tokens }) => sum + tokens.length, 0)

test('every row is in one run, decode before chunks, and each run of several rows fits', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(lengths, fc.integer({ min: 1, max: 60 }), (tokenCounts, limit) => {
      const rows = tokenCounts.map(createRow)
      const runs = cutRows(rows, (run) => countTokens(run) <= limit)
      const isChunk = (row: StepRow) => row.tokens.length > 1
      expect(runs.flat()).toEqual(rows.toSorted((a, b) => Number(isChunk(a)) - Number(isChunk(b))))
      for (const run of runs) expect(run.length === 1 || countTokens(run) <= limit).toBe(true)
      if (countTokens(rows) <= limit) expect(runs).toHaveLength(1)
    }),
    { seed: 1 },
  )
})

test('what decodes is parted from chunks first', () => {
  const rows = [5, 1, 1, 4].map(createRow)
  const runs = cutRows(rows, (run) => countTokens(run) < 10)
  expect(runs.map((run) => run.map(({ kv }) => kv.id))).toEqual([
    [1, 2],
    [0, 3],
  ])
})
