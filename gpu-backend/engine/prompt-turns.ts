import type { Urgent } from './urgency.ts'

/** A running sequence whose prompt is not computed yet. */
interface Prompting extends Urgent {
  readonly tenant: string
}

export interface PromptRights<T> {
  /** The level by tier and age alone: the order among a tenant's own. */
  readonly agedLevelOf: (sequence: T) => number
  /** The level against other tenants. */
  readonly levelOf: (sequence: T) => number
  /** What the tenant was charged. */
  readonly usedBy: (tenant: string) => number
  /** How many chunks of others were computed since the tenant's latest. */
  readonly passedOverCount: (tenant: string) => number
  /** So many and the tenant goes first: what it has to compute gets on, whatever comes. */
  readonly maxPassedOverCount: number
}

interface Turn<T> {
  /** In reverse order. */
  readonly own: T[]
  readonly used: number
  overdueCount: number
}

/**
 * The order in which prompts are computed: between tenants the more urgent first, and of equally
 * urgent ones the tenant's that has used least; of one tenant the more urgent first, and then those
 * that came first, so that they end one after another and not all late.
 */
export function* takeTurns<T extends Prompting>(
  prompts: readonly T[],
  rights: PromptRights<T>,
): Iterable<T> {
  const turns = [...groupByTenant(prompts, rights).values()]
  for (let left = prompts.length; left > 0; left--) {
    const [best] = turns
      .flatMap((turn) => {
        const head = turn.own.at(-1)
        return head === undefined ? [] : [{ turn, level: rights.levelOf(head) }]
      })
      .sort(
        (a, b) =>
          b.turn.overdueCount - a.turn.overdueCount ||
          a.level - b.level ||
          a.turn.used - b.turn.used,
      )
    const next = best?.turn.own.pop()
    if (best === undefined || next === undefined) return
    best.turn.overdueCount = 0
    yield next
  }
}

function groupByTenant<T extends Prompting>(prompts: readonly T[], rights: PromptRights<T>) {
  const { agedLevelOf, usedBy, passedOverCount, maxPassedOverCount } = rights
  const turns = new Map<string, Turn<T>>()
  for (const sequence of prompts) {
    const { tenant } = sequence
    const turn = turns.get(tenant)
    if (turn !== undefined) turn.own.push(sequence)
    else {
      const overdueCount = Math.max(0, passedOverCount(tenant) - maxPassedOverCount + 1)
      turns.set(tenant, { own: [sequence], used: usedBy(tenant), overdueCount })
    }
  }
  for (const { own } of turns.values()) {
    if (own.length < 2) continue
    own.sort((a, b) => agedLevelOf(b) - agedLevelOf(a) || b.serial - a.serial)
  }
  return turns
}
