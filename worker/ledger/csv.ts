type Cell = string | number | null

/** What a spreadsheet takes for the beginning of a formula, the full-width forms among them. */
const FORMULA = /^\s*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|^[\t\r\n]/

/**
 * Lines of RFC 4180, of the named columns. A text that a spreadsheet would run as a formula is given
 * an apostrophe before it.
 */
export function composeCsvLines<Column extends string>(
  columns: readonly Column[],
  rows: readonly Readonly<Record<Column, Cell>>[],
): string {
  const lines = rows.map((row) => columns.map((column) => quoteCell(row[column])).join(','))
  return lines.map((line) => `${line}\r\n`).join('')
}

/** The header line. */
export function composeCsvHeader(columns: readonly string[]): string {
  return `${columns.join(',')}\r\n`
}

function quoteCell(value: Cell): string {
  if (value === null) return ''
  if (typeof value === 'number') return String(value)
  const text = FORMULA.test(value) ? `'${value}` : value
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
