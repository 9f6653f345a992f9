/** Counts by label, since the start. */
export interface Counter {
  readonly count: (label: string) => void
  readonly entries: () => Iterable<readonly [label: string, count: number]>
}

export function createCounter(): Counter {
  const counts = new Map<string, number>()
  return {
    count: (label) => counts.set(label, (counts.get(label) ?? 0) + 1),
    entries: () => counts.entries(),
  }
}
