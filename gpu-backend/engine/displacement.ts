import { sortYielding, type Urgent } from './urgency.ts'

/** What the queue needs to know of a request. */
export interface Queued extends Urgent {
  readonly tenant: string
  /** Those that come and are refused together. `hasBegun`: one of them was admitted. */
  readonly group: { hasBegun: boolean }
}

export interface Newcomers {
  /** Any of them: they are of one tenant, tier and time. */
  readonly first: Queued
  readonly count: number
  /** Places that they lack. */
  readonly lackCount: number
}

/**
 * For newcomers to a full queue: who of `waiting` should leave to make place, so that nobody fills the
 * queue for the others; one of each group, all of which leaves. The last that has not begun of the
 * tenant that has most waiting, if that is more than the newcomers' tenant has with them; else less
 * urgent ones of the newcomers' own. Null: the newcomers.
 */
export function findDisplaced<T extends Queued>(
  waiting: readonly T[],
  { first, count, lackCount }: Newcomers,
  levelOf: (urgent: Urgent) => number,
): readonly T[] | null {
  const counts = new Map<string, number>()
  for (const { tenant } of waiting) counts.set(tenant, (counts.get(tenant) ?? 0) + 1)
  counts.set(first.tenant, (counts.get(first.tenant) ?? 0) + count)
  const countOf = (tenant: string) => counts.get(tenant) ?? 0
  const leaving: T[] = []
  let staying = waiting.filter(({ group }) => !group.hasBegun)
  for (let left = lackCount; left > 0; ) {
    let from = first.tenant
    for (const { tenant } of staying) if (countOf(tenant) > countOf(from)) from = tenant
    const own = staying.filter(({ tenant }) => tenant === from)
    const [last] = sortYielding(own, levelOf)
    if (last === undefined) return null
    if (from === first.tenant && levelOf(last) <= levelOf(first)) return null
    leaving.push(last)
    const beside = staying.filter(({ group }) => group !== last.group)
    const freedCount = staying.length - beside.length
    counts.set(from, countOf(from) - freedCount)
    left -= freedCount
    staying = beside
  }
  return leaving
}
