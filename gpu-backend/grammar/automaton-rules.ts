import type { Automaton } from './automaton.ts'
import { charOptions } from './char-set.ts'

/** How deep options are written inside each other before they become a rule. */
const MAX_NESTING = 4

/** EBNF of what an automaton accepts, as JSON writes it inside a string. States that are entered more than once become rules. */
export function writeAutomaton(
  automaton: Automaton,
  rules: { readonly reserve: () => string; readonly define: (name: string, body: string) => void },
): string {
  const entries = automaton.map(() => 0)
  automaton.forEach(({ edges }, id) => {
    for (const { to } of edges) if (to !== id) entries[to] = (entries[to] ?? 0) + 1
  })
  entries[0] = (entries[0] ?? 0) + 1
  const names = new Map<number, string>()

  function enter(id: number, depth: number): string {
    const isInline = entries[id] === 1 && depth < MAX_NESTING
    if (isInline) return write(id, depth)
    const found = names.get(id)
    if (found !== undefined) return found
    const name = rules.reserve()
    names.set(id, name)
    rules.define(name, write(id, 0))
    return name
  }

  function write(id: number, depth: number): string {
    const { isAccepting = false, edges = [] } = automaton[id] ?? {}
    const loop = edges.find(({ to }) => to === id)
    const onward = edges.filter(({ to }) => to !== id)
    const isSequence = onward.length === 1 && !isAccepting
    const options = onward.map(({ set, to }) => {
      const chars = charOptions(set)
      const one = chars.length === 1 ? (chars[0] ?? '') : `(${chars.join(' | ')})`
      return `${one} ${enter(to, isSequence ? depth : depth + 1)}`
    })
    if (isAccepting) options.push('""')
    const rest = options.length === 1 ? (options[0] ?? '') : `(${options.join(' | ')})`
    return loop ? `(${charOptions(loop.set).join(' | ')})* ${rest}` : rest
  }

  return enter(0, 0)
}
