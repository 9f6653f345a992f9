import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { renderMatrix } from '../../test/support/abort-expectations.ts'
import { playMatrix } from '../../test/support/abort-matrix.ts'

/**
 * Plays the abort matrix on a real workerd and prints how long it took until the upstream was
 * cancelled: prose, then one line of JSON. `--write` puts the matrix into docs/metering.md, whose
 * truth test/gateway/abort-matrix.test.ts checks.
 */

const DOCUMENT = join(import.meta.dirname, '../../docs/metering.md')
const BLOCK = /(<!-- abort matrix -->\n)[\s\S]*?(\n<!-- end -->)/

const { values } = parseArgs({ options: { write: { type: 'boolean', default: false } } })
if (values.write) {
  const text = await readFile(DOCUMENT, 'utf8')
  await writeFile(DOCUMENT, text.replace(BLOCK, `$1${renderMatrix()}$2`))
}

const { cells } = await playMatrix(2)
const delaysMs = new Map<string, number[]>()
for (const { cell, result } of cells) {
  // After the end nothing is left to cancel: such an upstream is waited for.
  if (result.upstreamEnd !== 'cancelled' || cell.moment === 'after the end') continue
  const group = `${cell.isStream ? 'stream' : 'one piece'}, ${cell.moment}, ${cell.leave}`
  delaysMs.set(group, [...(delaysMs.get(group) ?? []), result.delayMs])
}
const figures = Object.fromEntries(
  [...delaysMs].sort().map(([group, delays]) => {
    const sorted = delays.toSorted((a, b) => a - b).map(Math.round)
    return [group, { median: sorted[sorted.length >> 1], most: sorted.at(-1) }]
  }),
)
console.log('From the client’s leaving to the cancelled upstream call, milliseconds:')
console.table(figures)
console.log(JSON.stringify({ abortDelayMs: figures }))
