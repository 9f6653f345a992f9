import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { expectCell, isBilledBy, renderMatrix } from '../support/abort-expectations.ts'
import { playMatrix } from '../support/abort-matrix.ts'

test('whoever leaves whenever: the upstream is let go, the bill is right, nothing stays reserved', {
  timeout: 120_000,
}, async () => {
  const { cells, account } = await playMatrix(12)
  expect(account).toMatchObject({ open_reservation_count: 0, outbox_count: 0 })
  const faults = cells.flatMap(({ cell, result, records }) => {
    const { upstreamEnd, endings } = expectCell(cell)
    const [record] = records
    const isAsExpected =
      record !== undefined &&
      records.length === 1 &&
      upstreamEnd.split(' or ').includes(result.upstreamEnd) &&
      endings.some(
        ({ outcome, billing }) =>
          record.outcome === outcome &&
          isBilledBy(billing, record.completion_tokens, result, cell.isStream),
      )
    return isAsExpected ? [] : [{ cell, result, records, upstreamEnd, endings }]
  })
  expect(faults).toEqual([])
  expect(account.budget.spent_micro_usd).toBe(
    cells.flatMap(({ records }) => records).reduce((sum, record) => sum + record.fee_micro_usd, 0),
  )
})

test('docs/metering.md shows the matrix as it is', async () => {
  const text = await readFile(join(import.meta.dirname, '../../docs/metering.md'), 'utf8')
  expect(text).toContain(renderMatrix())
})
