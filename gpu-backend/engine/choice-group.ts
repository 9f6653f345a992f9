import { type ChoiceGroup, countFindablePages, type Sequence } from './sequence.ts'

export function createChoiceGroup(): ChoiceGroup {
  return { hasBegun: false, placeless: new Set() }
}

/** Lets those of a group, given in their order, that begin alike wait for the first of them. */
export function shareBeginnings(sequences: readonly Sequence[], pageTokens: number): void {
  if (sequences.length < 2) return
  const leaders = new Map<string, Sequence>()
  for (const sequence of sequences) {
    const findCount = countFindablePages(sequence, pageTokens)
    if (findCount === 0) continue
    const firstKey = sequence.pageKeyOf(0)
    const leader = leaders.get(firstKey)
    if (leader === undefined) {
      leaders.set(firstKey, sequence)
      continue
    }
    const most = Math.min(findCount, Math.floor(leader.promptTokenCount / pageTokens))
    let count = 1
    while (count < most && leader.pageKeyOf(count) === sequence.pageKeyOf(count)) count++
    sequence.shared = { leader, tokenCount: count * pageTokens }
  }
}

/** Whether it is worth waiting: what the sequence would begin with is being computed. */
export function awaitsLeader({ shared }: Sequence): boolean {
  if (shared === null) return false
  const { leader, tokenCount } = shared
  return leader.kv !== null && leader.computedCount < tokenCount
}
