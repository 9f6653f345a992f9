import { TOOL_CALL_CLOSE, TOOL_CALL_OPEN } from '../text/tool-form.ts'

/** What a piece of the answer adds to a tool call; its first delta, and no other, has the name. */
export interface ToolCallDelta {
  readonly index: number
  readonly name: string | null
  readonly arguments: string
}

export interface ParsedPiece {
  readonly content: string
  readonly calls: readonly ToolCallDelta[]
}

export interface ToolCallParser {
  readonly push: (text: string) => ParsedPiece
  /** When the answer has ended: what was held back: as a possible beginning of a call, or as one without a name. */
  readonly flush: () => ParsedPiece
}

const HEADER = /^\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": /

/**
 * Tells the calls of an answer from its text, whatever the pieces it comes in. The answer is one that
 * the grammar of tool calls let through: each call is well-formed unless the answer was cut.
 */
export function createToolCallParser(): ToolCallParser {
  let state: 'text' | 'header' | 'arguments' | 'end' = 'text'
  let pending = ''
  let callCount = 0
  let scanner = createValueScanner()

  function step(calls: ToolCallDelta[], content: string[]): boolean {
    switch (state) {
      case 'text':
        return takeText(content)
      case 'header':
        return takeHeader(calls)
      case 'arguments':
        return takeArguments(calls)
      case 'end':
        return takeEnd()
    }
  }

  function takeText(content: string[]): boolean {
    const at = pending.indexOf(TOOL_CALL_OPEN)
    const end = at >= 0 ? at : pending.length - countHeldBack(pending)
    const text = pending.slice(0, end)
    // The line break between two calls is nobody's text.
    const isBetweenCalls = callCount > 0 && text.trim() === ''
    if (isBetweenCalls && at < 0) return false
    if (!isBetweenCalls) content.push(text)
    pending = pending.slice(at >= 0 ? at + TOOL_CALL_OPEN.length : end)
    if (at >= 0) state = 'header'
    return at >= 0
  }

  function takeHeader(calls: ToolCallDelta[]): boolean {
    const [header, name] = HEADER.exec(pending) ?? []
    if (header === undefined || name === undefined) return false
    calls.push({ index: callCount, name: JSON.parse(name), arguments: '' })
    pending = pending.slice(header.length)
    scanner = createValueScanner()
    state = 'arguments'
    return true
  }

  function takeArguments(calls: ToolCallDelta[]): boolean {
    const { length, isComplete } = scanner.scan(pending)
    if (length > 0) {
      calls.push({ index: callCount, name: null, arguments: pending.slice(0, length) })
    }
    pending = pending.slice(length)
    if (isComplete) state = 'end'
    return isComplete
  }

  function takeEnd(): boolean {
    const at = pending.indexOf(TOOL_CALL_CLOSE)
    if (at < 0) return false
    pending = pending.slice(at + TOOL_CALL_CLOSE.length)
    callCount++
    state = 'text'
    return true
  }

  return {
    push(text) {
      pending += text
      const calls: ToolCallDelta[] = []
      const content: string[] = []
      while (step(calls, content));
      return { content: content.join(''), calls: mergeDeltas(calls) }
    },
    flush() {
      if (state === 'header') return { content: `${TOOL_CALL_OPEN}${pending}`, calls: [] }
      const text = state === 'text' ? pending : ''
      pending = ''
      return { content: callCount > 0 && text.trim() === '' ? '' : text, calls: [] }
    },
  }
}

/** How much of the end could be the beginning of a call. */
function countHeldBack(text: string): number {
  for (let length = TOOL_CALL_OPEN.length - 1; length > 0; length--) {
    if (text.endsWith(TOOL_CALL_OPEN.slice(0, length))) return length
  }
  return 0
}

/** At most one delta a call. */
function mergeDeltas(deltas: readonly ToolCallDelta[]): readonly ToolCallDelta[] {
  const merged: ToolCallDelta[] = []
  for (const delta of deltas) {
    const last = merged.at(-1)
    if (last?.index === delta.index && delta.name === null) {
      merged[merged.length - 1] = { ...last, arguments: last.arguments + delta.arguments }
    } else {
      merged.push(delta)
    }
  }
  return merged
}

/** Finds where a JSON object that comes in pieces ends. */
export function createValueScanner() {
  let depth = 0
  let isInString = false
  let isEscaped = false
  const scan = (text: string) => {
    for (let i = 0; i < text.length; i++) {
      const char = text.charAt(i)
      if (isInString) {
        if (isEscaped) isEscaped = false
        else if (char === '\\') isEscaped = true
        else if (char === '"') isInString = false
      } else if (char === '"') {
        isInString = true
      } else if (char === '{' || char === '[') {
        depth++
      } else if (char === '}' || char === ']') {
        depth--
        if (depth === 0) return { length: i + 1, isComplete: true }
      }
    }
    return { length: text.length, isComplete: false }
  }
  return { scan }
}
