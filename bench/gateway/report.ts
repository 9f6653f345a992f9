import type { Figures } from './measure-peers.ts'
import type { Peers } from './peers.ts'

export type PeerName = keyof Peers

/** One load on several peers. */
export interface Measured {
  readonly connectionCount: number
  readonly figures: Readonly<Partial<Record<PeerName, Figures>>>
}

export interface Measurements {
  /** Of a durable write, milliseconds. */
  readonly fsyncP50Ms: number
  readonly plain: readonly Measured[]
  readonly streams: readonly Measured[]
  readonly longPrompt: Measured
  readonly accounts: { readonly one: Figures; readonly many: Figures; readonly manyCount: number }
}

type Names = Readonly<Record<PeerName, string>>

const number = (value: number | null | undefined, digits: number) =>
  value == null || Number.isNaN(value) ? '–' : value.toFixed(digits)

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [line(head), `|${head.map(() => '---').join('|')}|`, ...rows.map(line)].join('\n')
}

/** What a peer adds to the upstream's own figure. */
function added(measured: Measured, name: PeerName, figure: keyof Figures): number | null {
  const own = measured.figures[name]?.[figure]
  const direct = measured.figures.direct?.[figure]
  return own == null || direct == null || name === 'direct' ? null : own - direct
}

/** A row a peer, a column a level in each cell. */
function perLevel(
  levels: readonly Measured[],
  cell: (level: Measured) => number | null | undefined,
  digits: number,
): string {
  return levels.map((level) => number(cell(level), digits)).join(' / ')
}

/** The document's tables, in Markdown. */
export function renderMeasurements(measured: Measurements, names: Names): string {
  const { plain, streams, longPrompt, accounts } = measured
  const peersOf = (levels: readonly Measured[]) =>
    Object.keys(levels[0]?.figures ?? {}) as PeerName[] // the figures' own keys
  const levelsOf = (levels: readonly Measured[]) =>
    levels.map(({ connectionCount }) => connectionCount).join(' / ')
  const plainRows = peersOf(plain).map((name) => [
    names[name],
    perLevel(plain, ({ figures }) => figures[name]?.requestsPerSecond, 0),
    perLevel(plain, ({ figures }) => figures[name]?.cpuMsPerRequest, 2),
    perLevel(plain, (level) => added(level, name, 'latencyP50Ms'), 1),
    perLevel(plain, (level) => added(level, name, 'latencyP99Ms'), 1),
  ])
  const streamRows = peersOf(streams).map((name) => [
    names[name],
    perLevel(streams, (level) => added(level, name, 'firstTokenP50Ms'), 1),
    perLevel(streams, (level) => added(level, name, 'firstTokenP99Ms'), 1),
    perLevel(streams, ({ figures }) => figures[name]?.chunkDelayP50Ms, 1),
    perLevel(streams, ({ figures }) => figures[name]?.chunkDelayP99Ms, 1),
    perLevel(streams, ({ figures }) => figures[name]?.cpuMsPerRequest, 1),
  ])
  const longRows = peersOf([longPrompt]).map((name) => [
    names[name],
    number(added(longPrompt, name, 'latencyP50Ms'), 1),
    number(longPrompt.figures[name]?.cpuMsPerRequest, 2),
  ])
  return [
    `A durable write (\`fdatasync\`) takes ${number(measured.fsyncP50Ms, 2)} ms at the median. Times in milliseconds, medians of the rounds.`,
    `**Plain requests** at ${levelsOf(plain)} connections`,
    table(['', 'requests/s', 'CPU a request', 'added p50', 'added p99'], plainRows),
    `**Streams**, ${levelsOf(streams)} at a time`,
    table(
      [
        '',
        'added TTFT p50',
        'added TTFT p99',
        'chunk delay p50',
        'chunk delay p99',
        'CPU a stream',
      ],
      streamRows,
    ),
    '**A prompt of 100 KB**, one connection',
    table(['', 'added p50', 'CPU a request'], longRows),
    `**Accounts**: ${number(accounts.one.requestsPerSecond, 0)} requests/s of one account, ${number(accounts.many.requestsPerSecond, 0)} of ${accounts.manyCount}, at 64 connections.`,
    table(
      ['target', 'measured', ''],
      judge(measured).map(({ target, value, isMet }) => [
        target,
        value,
        isMet ? 'met' : '**missed**',
      ]),
    ),
  ].join('\n\n')
}

export interface Verdict {
  readonly target: string
  readonly value: string
  readonly isMet: boolean
}

/** What the gateway is meant to reach beside its peers. */
export function judge({ plain, streams, longPrompt, accounts }: Measurements): Verdict[] {
  const ratios = (
    name: 'tallygate' | 'bareProxy',
    figure: 'cpuMsPerRequest' | 'requestsPerSecond',
  ) => plain.map(({ figures }) => (figures[name]?.[figure] ?? 0) / (figures.portkey?.[figure] ?? 0))
  const cpu = ratios('tallygate', 'cpuMsPerRequest')
  const throughput = ratios('tallygate', 'requestsPerSecond')
  const firstToken = streams.map(
    (level) => added(level, 'tallygate', 'firstTokenP50Ms') ?? Infinity,
  )
  const firstTokenLimits = [2, 4, 40]
  const longMs = added(longPrompt, 'tallygate', 'latencyP50Ms') ?? Infinity
  const growth = accounts.many.requestsPerSecond / accounts.one.requestsPerSecond
  const list = (values: readonly number[], digits: number) =>
    values.map((value) => value.toFixed(digits)).join(' / ')
  return [
    {
      target: "CPU a request ≤ 0.6 × Portkey's at each level",
      value: `${list(cpu, 2)} (a bare proxy: ${list(ratios('bareProxy', 'cpuMsPerRequest'), 2)})`,
      isMet: cpu.every((ratio) => ratio <= 0.6),
    },
    {
      target: "requests/s ≥ 1.3 × Portkey's at each level",
      value: `${list(throughput, 2)} (a bare proxy: ${list(ratios('bareProxy', 'requestsPerSecond'), 2)})`,
      isMet: throughput.every((ratio) => ratio >= 1.3),
    },
    {
      target: `added TTFT p50 ≤ ${firstTokenLimits.join(' / ')} ms`,
      value: list(firstToken, 1),
      isMet: firstToken.every((valueMs, index) => valueMs <= (firstTokenLimits[index] ?? 0)),
    },
    {
      target: 'a prompt of 100 KB: added p50 ≤ 3 ms',
      value: longMs.toFixed(1),
      isMet: longMs <= 3,
    },
    {
      target: 'throughput grows with accounts',
      value: `× ${growth.toFixed(2)}`,
      isMet: growth > 1,
    },
  ]
}
