import { ALL_CHARS, type CharSet, union } from './char-set.ts'
import { type Pattern, PatternError, type PatternNode } from './pattern-syntax.ts'

/** A deterministic automaton over code points; state 0 is where it begins. From each state a text can be accepted. */
export type Automaton = readonly AutomatonState[]

export interface AutomatonState {
  readonly isAccepting: boolean
  /** Sets that have nothing in common. */
  readonly edges: readonly { readonly set: CharSet; readonly to: number }[]
}

export interface TextLimits {
  /** Code points. */
  readonly least: number
  readonly most: number | null
}

const MAX_PART_COUNT = 10_000
const MAX_STATE_COUNT = 128
/** What compiling a state costs if it has characters beyond ASCII, of which there are so many tokens. */
const WIDE_COST = 4
/** Parts looked at while states are made: a bound of the time that a pattern may take. */
const MAX_WORK = 3_000_000

/** A nondeterministic automaton of a pattern that may begin anywhere and end anywhere. */
class PatternParts {
  readonly moves: { readonly set: CharSet; readonly to: number }[][] = []
  /** Taken without a character: anywhere, at the start of the text, at its end. */
  readonly steps: { readonly to: number; readonly kind: 'any' | 'start' | 'end' }[][] = []
  readonly first: number
  /** Once reached it is never left. */
  readonly last: number
  readonly isNegated: boolean

  constructor(node: PatternNode, isNegated: boolean) {
    this.isNegated = isNegated
    this.first = this.#add()
    this.#move(this.first, ALL_CHARS, this.first)
    const begin = this.#add()
    this.#step(this.first, begin)
    this.last = this.#build(node, begin)
    this.#move(this.last, ALL_CHARS, this.last)
  }

  #build(node: PatternNode, from: number): number {
    switch (node.kind) {
      case 'char': {
        const to = this.#add()
        this.#move(from, node.set, to)
        return to
      }
      case 'sequence':
        return this.#add(node.items.reduce((at, item) => this.#build(item, at), from))
      case 'choice': {
        const to = this.#add()
        for (const option of node.options) this.#step(this.#build(option, from), to)
        return to
      }
      case 'repeat':
        return this.#repeat(node, from)
      case 'start':
      case 'end': {
        const to = this.#add()
        this.#step(from, to, node.kind)
        return to
      }
    }
  }

  #repeat({ item, least, most }: Extract<PatternNode, { kind: 'repeat' }>, from: number): number {
    let at = from
    for (let count = 0; count < least; count++) at = this.#build(item, at)
    if (most === null) {
      const loop = this.#add(at)
      this.#step(this.#build(item, loop), loop)
      return this.#add(loop)
    }
    const to = this.#add(at)
    for (let count = least; count < most; count++) {
      at = this.#build(item, this.#add(at))
      this.#step(at, to)
    }
    return to
  }

  /** A new part, behind another where one is given. */
  #add(from?: number): number {
    if (this.moves.length >= MAX_PART_COUNT) throw tooLarge()
    const part = this.moves.push([]) - 1
    this.steps.push([])
    if (from !== undefined) this.#step(from, part)
    return part
  }

  #move(from: number, set: CharSet, to: number): void {
    if (set.length > 0) this.moves[from]?.push({ set, to })
  }

  #step(from: number, to: number, kind: 'any' | 'start' | 'end' = 'any'): void {
    this.steps[from]?.push({ to, kind })
  }
}

/** What is left of one pattern: the parts where it may be. */
type Position = readonly number[]

/**
 * The texts that match every pattern and are as long as they may be. Throws {@link PatternError} where
 * there are none, or where that takes too many states.
 */
export function matchAll(patterns: readonly Pattern[], limits: TextLimits): Automaton {
  const automaton = trim(new Determiniser(patterns, limits).run())
  const cost = automaton.reduce((sum, state, id) => sum + (isWide(state, id) ? WIDE_COST : 1), 0)
  if (cost > MAX_STATE_COUNT) throw tooLarge()
  return automaton
}

/** Whether a state is left by characters beyond ASCII. */
function isWide({ edges }: AutomatonState, id: number): boolean {
  return edges.some(({ set, to }) => to !== id && (set.at(-1)?.[1] ?? 0) > 0x7f)
}

class Determiniser {
  readonly #all: readonly PatternParts[]
  readonly #limits: TextLimits
  readonly #cuts: readonly number[]
  readonly #edgesOfPart: readonly (readonly { atoms: readonly number[]; to: number }[])[][]
  #work = 0

  constructor(patterns: readonly Pattern[], limits: TextLimits) {
    this.#limits = limits
    this.#all = patterns.flatMap(({ main, aheads }) => [
      new PatternParts(main, false),
      ...aheads.map(({ node, isNegated }) => {
        const items = [{ kind: 'start' } as const, node]
        return new PatternParts({ kind: 'sequence', items }, isNegated)
      }),
    ])
    const sets = this.#all.flatMap(({ moves }) => moves.flat().map(({ set }) => set))
    const cuts = [...ALL_CHARS, ...sets.flat()].flatMap(([low, high]) => [low, high + 1])
    this.#cuts = [...new Set(cuts)].sort((a, b) => a - b)
    this.#edgesOfPart = this.#all.map(({ moves }) =>
      moves.map((edges) => edges.map(({ set, to }) => ({ atoms: this.#atomsOf(set), to }))),
    )
  }

  /** Numbers of the stretches between cuts that are in the set. */
  #atomsOf(set: CharSet): readonly number[] {
    return set.flatMap(([low, high]) => {
      const first = this.#cuts.indexOf(low)
      const end = this.#cuts.indexOf(high + 1)
      this.#count(end - first)
      return Array.from({ length: end - first }, (_, i) => first + i)
    })
  }

  run(): Automaton {
    const states: { isAccepting: boolean; edges: { set: CharSet; to: number }[] }[] = []
    const ids = new Map<string, number>()
    const queue: { positions: readonly Position[]; length: number }[] = []
    const idOf = (positions: readonly Position[], length: number): number => {
      const key = `${length}:${positions.join(';')}`
      const found = ids.get(key)
      if (found !== undefined) return found
      if (ids.size >= MAX_STATE_COUNT) throw tooLarge()
      ids.set(key, ids.size)
      queue.push({ positions, length })
      return ids.size - 1
    }
    idOf(
      this.#all.map(({ first }, i) => this.#settle(i, [first], ['any', 'start'])),
      0,
    )
    for (let state = queue[0]; state; state = queue[states.length]) {
      const { positions, length } = state
      const edges = this.#edges(positions).flatMap(({ set, next }) => {
        const nextLength = this.#nextLength(length)
        return nextLength === null ? [] : [{ set, to: idOf(next, nextLength) }]
      })
      const isFirst = states.length === 0
      states.push({ isAccepting: this.#accepts(positions, length, isFirst), edges })
    }
    return states
  }

  /** As many characters as matter; null: more than there may be. */
  #nextLength(length: number): number | null {
    const { least, most } = this.#limits
    if (most === null) return Math.min(length + 1, least)
    return length < most ? length + 1 : null
  }

  #edges(positions: readonly Position[]) {
    const targets = positions.map((position, i) => this.#targets(position, i))
    const edges = new Map<string, { set: (readonly [number, number])[]; next: Position[] }>()
    for (let atom = 0; atom + 1 < this.#cuts.length; atom++) {
      const low = this.#cuts[atom] ?? 0
      if (low === 0xd800) continue
      const next = targets.map((target) => target.get(atom) ?? [])
      if (this.#all.some((parts, i) => isDead(parts, next[i] ?? []))) continue
      const key = next.join(';')
      const edge = edges.get(key) ?? { set: [], next }
      edges.set(key, edge)
      edge.set.push([low, (this.#cuts[atom + 1] ?? 0) - 1])
    }
    return [...edges.values()]
  }

  /** Where a pattern is after a character of each stretch. */
  #targets(position: Position, index: number): ReadonlyMap<number, Position> {
    const byAtom = new Map<number, Set<number>>()
    for (const part of position) {
      for (const { atoms, to } of this.#edgesOfPart[index]?.[part] ?? []) {
        this.#count(atoms.length)
        for (const atom of atoms) {
          const found = byAtom.get(atom) ?? new Set()
          byAtom.set(atom, found.add(to))
        }
      }
    }
    const settled = new Map<string, Position>()
    return new Map(
      [...byAtom].map(([atom, parts]) => {
        const key = [...parts].join()
        const known = settled.get(key) ?? this.#settle(index, [...parts], ['any'])
        settled.set(key, known)
        return [atom, known]
      }),
    )
  }

  /** All parts that are reached without a character; the last part alone, once it is reached. */
  #settle(index: number, from: readonly number[], kinds: readonly string[]): Position {
    const parts = this.#all[index]
    const reached = new Set(from)
    for (const part of reached) {
      for (const { to, kind } of parts?.steps[part] ?? []) {
        this.#count(1)
        if (kinds.includes(kind)) reached.add(to)
      }
    }
    if (parts && reached.has(parts.last)) return [parts.last]
    return [...reached].sort((a, b) => a - b)
  }

  #accepts(positions: readonly Position[], length: number, isFirst: boolean): boolean {
    if (length < this.#limits.least) return false
    const kinds = isFirst ? ['any', 'start', 'end'] : ['any', 'end']
    return this.#all.every(({ last, isNegated }, i) => {
      const matches = this.#settle(i, positions[i] ?? [], kinds).includes(last)
      return matches !== isNegated
    })
  }

  #count(work: number): void {
    this.#work += work
    if (this.#work > MAX_WORK) throw tooLarge()
  }
}

/** Whether no text that goes on like this can be accepted. */
function isDead({ isNegated, last }: PatternParts, position: Position): boolean {
  return isNegated ? position.includes(last) : position.length === 0
}

/** Without the states from which nothing is accepted, and with those merged that accept the same. */
function trim(states: Automaton): Automaton {
  const live = new Set(states.flatMap(({ isAccepting }, id) => (isAccepting ? [id] : [])))
  for (let size = -1; size !== live.size; ) {
    size = live.size
    states.forEach(({ edges }, id) => {
      if (edges.some(({ to }) => live.has(to))) live.add(id)
    })
  }
  if (!live.has(0)) throw new PatternError('allows no text, together with what stands beside it')
  let groups: readonly number[] = states.map(({ isAccepting }) => (isAccepting ? 1 : 0))
  const joinLive = (edges: AutomatonState['edges']) =>
    joinEdges(
      edges.filter(({ to }) => live.has(to)),
      groups,
    )
  for (let count = 0; ; ) {
    const ids = new Map<string, number>()
    groups = states.map(({ edges }, id) => {
      const key = JSON.stringify([groups[id], joinLive(edges)])
      ids.set(key, ids.get(key) ?? ids.size)
      return ids.get(key) ?? 0
    })
    if (ids.size === count) break
    count = ids.size
  }
  const order = [...new Set(states.flatMap((_, id) => (live.has(id) ? [groups[id] ?? 0] : [])))]
  return order.map((group) => {
    const id = groups.indexOf(group)
    const { isAccepting = false, edges = [] } = states[id] ?? {}
    const kept = joinLive(edges).map(({ set, to }) => ({ set, to: order.indexOf(to) }))
    return { isAccepting, edges: kept }
  })
}

/** One edge for each group, in the order of their characters. */
function joinEdges(edges: AutomatonState['edges'], groups: readonly number[]) {
  const byGroup = new Map<number, CharSet>()
  for (const { set, to } of edges) {
    const group = groups[to] ?? 0
    byGroup.set(group, [...(byGroup.get(group) ?? []), ...set])
  }
  return [...byGroup]
    .map(([to, set]) => ({ to, set: union(set) }))
    .sort((a, b) => (a.set[0]?.[0] ?? 0) - (b.set[0]?.[0] ?? 0))
}

function tooLarge(): PatternError {
  return new PatternError(
    `needs more than ${MAX_STATE_COUNT} states (beyond ASCII ${MAX_STATE_COUNT / WIDE_COST})`,
  )
}
