import type { Urgent } from './urgency.ts'

/** A running request: it has one of the places and some of the KV pages. */
export interface Holder extends Urgent {
  readonly tenant: string
  readonly pageCount: number
}

export interface Capacity {
  readonly placeCount: number
  readonly pageCount: number
}

/**
 * What each tenant has of places and of KV pages. Its share is the larger of the two parts (Ghodsi et
 * al., "Dominant resource fairness", 2011), so that neither many small requests nor a few long ones
 * take the engine from the others.
 */
export class Shares {
  readonly #capacity: Capacity
  readonly #held = new Map<string, { placeCount: number; pageCount: number }>()

  constructor(holders: Iterable<Holder>, capacity: Capacity) {
    this.#capacity = capacity
    for (const { tenant, pageCount } of holders) this.#change(tenant, 1, pageCount)
  }

  /** 0 … 1. */
  of(tenant: string): number {
    const { placeCount = 0, pageCount = 0 } = this.#held.get(tenant) ?? {}
    return Math.max(placeCount / this.#capacity.placeCount, pageCount / this.#capacity.pageCount)
  }

  /** Whether it has more than `equalShare`, other than by a single request. */
  isAbove(equalShare: number, tenant: string): boolean {
    return (this.#held.get(tenant)?.placeCount ?? 0) > 1 && this.of(tenant) > equalShare
  }

  add({ tenant, pageCount }: Pick<Holder, 'tenant' | 'pageCount'>): void {
    this.#change(tenant, 1, pageCount)
  }

  remove({ tenant, pageCount }: Pick<Holder, 'tenant' | 'pageCount'>): void {
    this.#change(tenant, -1, -pageCount)
  }

  #change(tenant: string, placeCount: number, pageCount: number): void {
    const held = this.#held.get(tenant) ?? { placeCount: 0, pageCount: 0 }
    held.placeCount += placeCount
    held.pageCount += pageCount
    this.#held.set(tenant, held)
  }
}

interface Ranked<T> {
  readonly holder: T
  readonly level: number
  /** The tenant's earliest of its level: it gives way to more urgent ones alone, so that it ends. */
  readonly isFirst: boolean
}

/**
 * Who gives way first, where memory is short: the least urgent; of equally urgent ones those of the
 * tenant with the largest share, the latest first; and last of all each tenant's earliest, the
 * latest of these first. So the earliest of the most urgent always gets on.
 */
export function rankYielding<T extends Holder>(
  holders: Iterable<T>,
  shares: Shares,
  levelOf: (holder: T) => number,
): readonly Ranked<T>[] {
  const leveled = Array.from(holders, (holder) => ({ holder, level: levelOf(holder) }))
  const earliest = new Map<string, number>()
  for (const { holder, level } of leveled) {
    const key = `${level} ${holder.tenant}`
    earliest.set(key, Math.min(earliest.get(key) ?? Number.POSITIVE_INFINITY, holder.serial))
  }
  const ranked = leveled.map(({ holder, level }) => {
    return { holder, level, isFirst: earliest.get(`${level} ${holder.tenant}`) === holder.serial }
  })
  const shareOf = ({ holder, isFirst }: Ranked<T>) => (isFirst ? 0 : shares.of(holder.tenant))
  return ranked.sort(
    (a, b) => b.level - a.level || shareOf(b) - shareOf(a) || b.holder.serial - a.holder.serial,
  )
}

export interface Newcomer<T> {
  readonly holder: T
  /** That it wants. */
  readonly pageCount: number
  /** By the shares as they are when it is called. */
  readonly levelOf: (holder: T) => number
}

/**
 * Who has to give way so that the newcomer fits; null if all that may be asked would not do. Less
 * urgent ones may; equally urgent ones where their tenant keeps at least the share that the newcomer's
 * then has. Both are judged as things are afterwards, so that no two take from each other in turns.
 */
export function planVictims<T extends Holder>(
  { holder: newcomer, pageCount, levelOf }: Newcomer<T>,
  ranked: readonly Ranked<T>[],
  shares: Shares,
  isEnough: (victims: readonly T[]) => boolean,
): readonly T[] | null {
  const { tenant } = newcomer
  const victims: T[] = []
  shares.add({ tenant, pageCount })
  const level = levelOf(newcomer)
  for (const { holder, isFirst } of ranked) {
    shares.remove(holder)
    const leftLevel = levelOf(holder)
    const mayTakeEqual =
      !isFirst && holder.tenant !== tenant && shares.of(holder.tenant) >= shares.of(tenant)
    if (leftLevel > level || (leftLevel === level && mayTakeEqual)) {
      victims.push(holder)
      if (isEnough(victims)) return victims
    } else {
      shares.add(holder)
    }
  }
  return null
}
