import {
  type Cell,
  type CellResult,
  listCells,
  MOMENTS,
  type Moment,
  UPSTREAM_KINDS,
  type UpstreamKind,
} from './abort-matrix.ts'

/** What is billed: the completion tokens that … */
type Billing =
  /** … the upstream's own usage states: all that it produced. */
  | 'usage'
  /** … our backend's report states, once it has stopped: all that it produced. */
  | 'report'
  /** … passed the gateway: at least those that the client saw. */
  | 'frames'
  | 'nothing'

interface Ending {
  readonly outcome: 'completed' | 'client_aborted' | 'upstream_failed'
  readonly billing: Billing
}

interface Expectation {
  readonly upstreamEnd: CellResult['upstreamEnd'] | 'finished or cancelled'
  /** More than one where client and upstream go at the same time: whoever is noticed first counts. */
  readonly endings: readonly Ending[]
}

/** How a cell may end. */
export function expectCell(cell: Cell): Expectation {
  const { moment, upstream, isOwn, isStream } = cell
  if (moment === 'after the end') return expectWhole(cell)
  const left: Ending = { outcome: 'client_aborted', billing: billLeft(cell) }
  switch (upstream) {
    case 'fast':
      return {
        upstreamEnd: 'finished or cancelled',
        endings: [
          { outcome: 'completed', billing: 'usage' },
          left,
          // It left while the usage was already there.
          ...(isOwn || left.billing === 'usage' ? [] : [{ ...left, billing: 'usage' } as const]),
        ],
      }
    case 'dying': {
      if (moment === 'after the usage chunk')
        return { upstreamEnd: 'died', endings: [{ outcome: 'completed', billing: 'usage' }, left] }
      const sentTokens = isStream && moment === 'in mid-answer'
      const failed = {
        outcome: 'upstream_failed',
        billing: sentTokens ? 'frames' : 'nothing',
      } as const
      const isBilled = moment === 'in mid-answer' && (isOwn || isStream)
      return {
        upstreamEnd: 'died',
        endings: [failed, isBilled ? left : { ...left, billing: 'nothing' }],
      }
    }
    default:
      return { upstreamEnd: 'cancelled', endings: [left] }
  }
}

function expectWhole({ upstream, isOwn, isStream }: Cell): Expectation {
  const upstreamEnd =
    upstream === 'silent' ? 'cancelled' : upstream === 'dying' ? 'died' : 'finished'
  if (upstream === 'malformed' && !isStream)
    return { upstreamEnd, endings: [{ outcome: 'upstream_failed', billing: 'nothing' }] }
  const counted = upstream === 'without usage' ? (isOwn ? 'report' : 'frames') : 'usage'
  return { upstreamEnd, endings: [{ outcome: 'completed', billing: counted }] }
}

/** What a client that left is billed. */
function billLeft({ moment, isOwn, isStream }: Cell): Billing {
  if (moment === 'after the usage chunk') return 'usage'
  if (isOwn) return 'report'
  return isStream ? 'frames' : 'nothing'
}

/** Whether the tokens of a record are what a billing says. */
export function isBilledBy(
  billing: Billing,
  completionTokens: number,
  { seenTokenCount, producedTokenCount }: CellResult,
  isStream: boolean,
): boolean {
  switch (billing) {
    case 'usage':
    case 'report':
      return completionTokens === producedTokenCount
    case 'frames':
      // A body in one piece has no frames: its tokens are estimated by its length.
      if (!isStream) return completionTokens > 0
      return seenTokenCount <= completionTokens && completionTokens <= producedTokenCount
    case 'nothing':
      return completionTokens === 0
  }
}

/** The matrix as docs/metering.md shows it: upstreams that end alike share a row. */
export function renderMatrix(): string {
  return [true, false].map(renderHalf).join('\n\n')
}

function renderHalf(isStream: boolean): string {
  const title = isStream ? '**Streamed answers**' : '**Answers in one piece**'
  const rows = MOMENTS.flatMap((moment) => renderMoment(moment, isStream))
  return [
    title,
    '',
    '| the client leaves | the upstream is | its call is | outcome: billed, our backend | outcome: billed, another server |',
    '|---|---|---|---|---|',
    ...rows,
  ].join('\n')
}

function renderMoment(moment: Moment, isStream: boolean): string[] {
  const kindsByEnding = new Map<string, UpstreamKind[]>()
  for (const upstream of UPSTREAM_KINDS) {
    const cells = listCells().filter(
      (cell) =>
        cell.moment === moment &&
        cell.upstream === upstream &&
        cell.isStream === isStream &&
        cell.leave === 'FIN',
    )
    const [own, foreign] = cells.map(expectCell)
    if (own === undefined || foreign === undefined) continue
    const ending = `${own.upstreamEnd} | ${renderEndings(own)} | ${renderEndings(foreign)}`
    kindsByEnding.set(ending, [...(kindsByEnding.get(ending) ?? []), upstream])
  }
  return [...kindsByEnding].map(
    ([ending, kinds]) => `| ${moment} | ${kinds.join(', ')} | ${ending} |`,
  )
}

function renderEndings({ endings }: Expectation): string {
  return endings.map(({ outcome, billing }) => `\`${outcome}\`: ${billing}`).join(', or ')
}
