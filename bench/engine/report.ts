import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import type { Spread } from './statistics.ts'

export interface BenchRow {
  readonly bench: string
  readonly name: string
  /** A ratio. */
  readonly figure: Spread
  /** Null: printed, not judged. */
  readonly target: { readonly kind: 'at least' | 'at most'; readonly value: number } | null
  /** Absolute figures, for context only. */
  readonly context: string
}

export interface EngineReport {
  readonly machine: string
  readonly peer: string | null
  readonly rows: readonly BenchRow[]
}

/** Cores and instruction sets: what a ratio depends on. */
export async function describeMachine(): Promise<string> {
  const cpuinfo = await readFile('/proc/cpuinfo', 'utf8').catch(() => '')
  const known = ['avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_int8', 'asimd', 'i8mm']
  const [, line = ''] = /^(?:flags|Features)\s*: (.*)$/m.exec(cpuinfo) ?? []
  const flags = line.split(' ').filter((flag) => known.includes(flag))
  return `${availableParallelism()} cores, ${process.arch} ${flags.join(' ')}`.trim()
}

export function formatRow(row: BenchRow): string {
  const [figure, target, verdict] = describeRow(row)
  return `${row.bench}, ${row.name}: ${figure} ${target && `(target ${target}: ${verdict})`} ${row.context}`
}

export function formatTable({ machine, peer, rows }: EngineReport): string {
  const lines = rows.map(
    (row) => `| ${[row.bench, row.name, ...describeRow(row), row.context].join(' | ')} |`,
  )
  return [
    `On ${machine}${peer ? `; peer ${peer}` : ''}. Ratios are medians of the rounds, with least and most.`,
    '',
    '| bench | case | ratio | target | | for context |',
    '|---|---|---|---|---|---|',
    ...lines,
  ].join('\n')
}

export function holds({ figure, target }: BenchRow): boolean | null {
  if (target === null) return null
  const { kind, value } = target
  return kind === 'at least' ? figure.median >= value : figure.median <= value
}

const START = '<!-- bench:engine -->'
const END = '<!-- /bench:engine -->'

/** The text with the table between the two markers. */
export function placeTable(text: string, table: string): string {
  const [before, rest] = text.split(START)
  const [, after] = rest?.split(END) ?? []
  if (before === undefined || after === undefined) {
    throw new Error(`The document has no ${START} … ${END}.`)
  }
  return `${before}${START}\n${table}\n${END}${after}`
}

export async function writeTable(path: URL, table: string): Promise<void> {
  await writeFile(path, placeTable(await readFile(path, 'utf8'), table))
}

function describeRow(row: BenchRow): readonly [figure: string, target: string, verdict: string] {
  const { figure, target } = row
  const { median, min, max } = figure
  const range = min === max ? '' : ` (${digits(min)}–${digits(max)})`
  const wanted = target === null ? '' : `${target.kind === 'at least' ? '≥' : '≤'} ${target.value}×`
  const verdict = { true: 'holds', false: 'missed', null: '' }[String(holds(row)) as 'true']
  return [`${digits(median)}×${range}`, wanted, verdict]
}

function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)
}
