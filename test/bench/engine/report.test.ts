import { expect, test } from 'vitest'
import { formatTable, placeTable } from '../../../bench/engine/report.ts'
import { percentile, ratios } from '../../../bench/engine/statistics.ts'

test('a table replaces what stands between the markers, and nothing else', () => {
  const text = 'a\n<!-- bench:engine -->\nold\n<!-- /bench:engine -->\nb\n'
  const placed = placeTable(text, 'new')
  expect(placed).toBe('a\n<!-- bench:engine -->\nnew\n<!-- /bench:engine -->\nb\n')
  expect(placeTable(placed, 'new')).toBe(placed)
  expect(() => placeTable('no markers', 'new')).toThrow('bench:engine')
})

test('ratios are of the same round, and a row says whether its target holds', () => {
  const figure = ratios([10, 30, 20], [10, 10, 10])
  expect(figure).toEqual({ median: 2, min: 1, max: 3 })
  const row = { bench: 'decode', name: 'batch 8', figure, context: '' }
  const table = formatTable({
    machine: '2 cores',
    peer: null,
    rows: [
      { ...row, target: { kind: 'at least', value: 2 } },
      { ...row, target: { kind: 'at most', value: 1.5 } },
      { ...row, target: null },
    ],
  })
  expect(table).toContain('| 2.00× (1.00–3.00) | ≥ 2× | holds |')
  expect(table).toContain('| 2.00× (1.00–3.00) | ≤ 1.5× | missed |')
  expect(table).toContain('| 2.00× (1.00–3.00) |  |  |')
})

test('a percentile is one of the values: the least that so many do not exceed', () => {
  const values = Array.from({ length: 100 }, (_, i) => 100 - i)
  expect(percentile(values, 0.99)).toBe(99)
  expect(percentile(values, 0.5)).toBe(50)
  expect(percentile([3], 0.99)).toBe(3)
  expect(percentile([], 0.99)).toBeNaN()
})
