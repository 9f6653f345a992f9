import type { StepRow } from '../engine/model-runner.ts'

export function isDecode(row: StepRow): boolean {
  return row.tokens.length === 1
}

/**
 * The rows of a step in one run, decode before chunks; in several where they do not fit together. A row
 * that does not fit alone has a run of its own.
 */
export function cutRows(
  rows: readonly StepRow[],
  fitsOneRun: (rows: readonly StepRow[]) => boolean,
): readonly (readonly StepRow[])[] {
  const decode = rows.filter(isDecode)
  const chunks = rows.filter((row) => !isDecode(row))
  const order = [...decode, ...chunks]
  if (order.length === 1 || fitsOneRun(order)) return [order]
  const cutAt = decode.length > 0 && chunks.length > 0 ? decode.length : Math.ceil(order.length / 2)
  return [...cutRows(order.slice(0, cutAt), fitsOneRun), ...cutRows(order.slice(cutAt), fitsOneRun)]
}
