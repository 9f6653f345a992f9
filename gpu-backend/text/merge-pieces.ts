/** What two neighbours count when they are merged: the least first. `undefined`: they are not. */
export type RankOf = (left: string, right: string) => number | undefined

interface Candidate {
  readonly rank: number
  /** Places of the two neighbours' first characters. */
  readonly at: number
  readonly nextAt: number
  /** What they were: if one has been merged since, this is out of date. */
  readonly left: string
  readonly right: string
}

/** Merges the characters of a text until no neighbours can be; of equal ranks the leftmost first. O(n log n). */
export function mergePieces(text: string, rankOf: RankOf): string[] {
  const pieces: (string | null)[] = Array.from(text)
  const previous = pieces.map((_, at) => at - 1)
  const next = pieces.map((_, at) => at + 1)
  const queue = createQueue()

  function offer(at: number, nextAt: number): void {
    const left = pieces[at]
    const right = pieces[nextAt]
    if (left == null || right == null) return
    const rank = rankOf(left, right)
    if (rank !== undefined) queue.push({ rank, at, nextAt, left, right })
  }

  for (let at = 0; at + 1 < pieces.length; at++) offer(at, at + 1)
  for (let best = queue.pop(); best; best = queue.pop()) {
    const { at, nextAt, left, right } = best
    if (pieces[at] !== left || pieces[nextAt] !== right) continue
    pieces[at] = left + right
    pieces[nextAt] = null
    const after = next[nextAt] ?? pieces.length
    next[at] = after
    if (after < pieces.length) previous[after] = at
    offer(previous[at] ?? -1, at)
    offer(at, after)
  }
  return pieces.filter((piece) => piece !== null)
}

/** A binary heap. */
function createQueue() {
  const heap: Candidate[] = []
  const isBefore = (a: Candidate, b: Candidate) =>
    a.rank < b.rank || (a.rank === b.rank && a.at < b.at)

  function push(candidate: Candidate): void {
    let slot = heap.length
    while (slot > 0) {
      const parentSlot = (slot - 1) >> 1
      const parent = heap[parentSlot]
      if (!parent || !isBefore(candidate, parent)) break
      heap[slot] = parent
      slot = parentSlot
    }
    heap[slot] = candidate
  }

  function pop(): Candidate | undefined {
    const [first] = heap
    const last = heap.pop()
    if (!last || heap.length === 0) return first
    let slot = 0
    for (;;) {
      let childSlot = 2 * slot + 1
      let child = heap[childSlot]
      const sibling = heap[childSlot + 1]
      if (child && sibling && isBefore(sibling, child)) {
        child = sibling
        childSlot++
      }
      if (!child || !isBefore(child, last)) break
      heap[slot] = child
      slot = childSlot
    }
    heap[slot] = last
    return first
  }

  return { push, pop }
}
