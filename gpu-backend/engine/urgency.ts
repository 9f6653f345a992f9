import { TIERS, type Tier } from '../../protocol/backend.ts'

/** What the order between requests depends on. */
export interface Urgent {
  readonly tier: Tier
  readonly arrivedAtMs: number
  /** Requests are numbered in the order of their arrival. */
  readonly serial: number
}

/** 0 is the most urgent level. */
export function tierLevel(tier: Tier): number {
  return TIERS.indexOf(tier)
}

/** 0 is the most urgent level. A request rises one level each `promoteAfterMs`, so that none waits for ever below others. */
export function urgencyLevel(
  { tier, arrivedAtMs }: Urgent,
  nowMs: number,
  promoteAfterMs: number,
): number {
  return Math.max(0, tierLevel(tier) - Math.floor((nowMs - arrivedAtMs) / promoteAfterMs))
}

/** Sorts those first that give way first: the least urgent, and of equally urgent ones the latest. */
export function sortYielding<T extends Urgent>(
  sequences: Iterable<T>,
  levelOf: (sequence: T) => number,
): readonly T[] {
  const ranked = Array.from(sequences, (sequence) => ({ sequence, level: levelOf(sequence) }))
  ranked.sort((a, b) => b.level - a.level || b.sequence.serial - a.sequence.serial)
  return ranked.map(({ sequence }) => sequence)
}
