import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { composeCsvHeader, composeCsvLines } from '../../../worker/ledger/csv.ts'

fc.configureGlobal({ seed: 1 })

/** Cells of RFC 4180 as a spreadsheet reads them. */
function parseCsv(text: string): string[][] {
  const lines: string[][] = []
  let line: string[] = []
  for (const [, quoted, plain, end] of text.matchAll(
    /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/g,
  )) {
    line.push(quoted?.replaceAll('""', '"') ?? plain ?? '')
    if (end === ',') continue
    lines.push(line)
    line = []
  }
  return lines
}

const cell = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.stringMatching(/^[ \t\r\n"',=+\-@＝＋－＠a1]*$/),
  fc.integer(),
  fc.constant(null),
)

test('every cell comes back as it was, and none is taken for a formula', () =>
  fc.assert(
    fc.property(fc.array(fc.record({ a: cell, b: cell })), (rows) => {
      const text = composeCsvHeader(['a', 'b']) + composeCsvLines(['a', 'b'], rows)
      const [header, ...parsed] = parseCsv(text)
      expect(header).toEqual(['a', 'b'])
      expect(parsed).toHaveLength(rows.length)
      for (const [index, row] of rows.entries()) {
        for (const [at, value] of [row.a, row.b].entries()) {
          const read = parsed[index]![at]!
          if (typeof value === 'number') expect(read).toBe(String(value))
          else {
            expect([value ?? '', `'${value}`]).toContain(read)
            expect(read).not.toMatch(/^\s*[=+\-@＝＋－＠]|^[\t\r\n]/)
          }
        }
      }
    }),
    { numRuns: 500 },
  ))
