import type { ToolForm } from '../text/tool-form.ts'
import {
  createValueScanner,
  type ParsedPiece,
  type ToolCallDelta,
  type ToolCallParser,
} from './tool-call-parser.ts'
import { isObject } from './tool-fields.ts'

const NOTHING: ParsedPiece = { content: '', calls: [] }
const NAME = /\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(arguments|parameters)"\s*:\s*/y
/** Templates that show calls with their ids are imitated. */
const AFTER_ARGUMENTS = /\s*(?:,\s*"id"\s*:\s*"[^"\\]*"\s*)?\}\s*/y

/**
 * Tells calls from text in forms that a free answer may begin by chance. What could be calls is held
 * until the answer ends: then it is calls of known functions, as a whole, or text.
 */
export function createHeldCallParser(form: ToolForm, names: ReadonlySet<string>): ToolCallParser {
  let pending = ''
  let mayBeCalls = true
  return {
    push(text) {
      pending += text
      if (!mayBeCalls) return release(pending.length)
      if (form.trigger !== null) return release(findStart(pending, form.trigger))
      mayBeCalls = mayBegin(pending.trimStart(), form)
      return mayBeCalls ? NOTHING : release(pending.length)
    },
    flush() {
      const held = pending
      pending = ''
      const calls = mayBeCalls ? readCalls(held, form, names) : null
      return calls === null ? { content: held, calls: [] } : { content: '', calls }
    },
  }

  function release(length: number): ParsedPiece {
    const content = pending.slice(0, length)
    pending = pending.slice(length)
    return { content, calls: [] }
  }
}

/** Where the trigger is, or what could become it. */
function findStart(text: string, trigger: string): number {
  const at = text.indexOf(trigger)
  if (at >= 0) return at
  for (let length = Math.min(trigger.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(trigger.slice(0, length))) return text.length - length
  }
  return text.length
}

function mayBegin(text: string, { marker }: ToolForm): boolean {
  return (
    text.startsWith('{') ||
    (marker !== null && (marker.startsWith(text) || text.startsWith(marker)))
  )
}

/** Null where the text is anything but calls. */
function readCalls(
  text: string,
  form: ToolForm,
  names: ReadonlySet<string>,
): readonly ToolCallDelta[] | null {
  let rest = text.trim()
  if (form.marker !== null && rest.startsWith(form.marker)) {
    rest = rest.slice(form.marker.length).trim()
  }
  const begin = form.begin.slice(form.trigger?.length ?? 0).trim()
  if (!rest.startsWith(begin) || !rest.endsWith(form.end)) return null
  rest = rest.slice(begin.length, rest.length - form.end.length)
  const calls: ToolCallDelta[] = []
  for (let at = 0; at < rest.length || calls.length === 0; ) {
    if (calls.length > 0) {
      if (form.between === '' || rest[at] !== form.between.trim()) return null
      at++
    }
    const call = readCall(rest, at, form)
    if (call === null || !names.has(call.name)) return null
    calls.push({ index: calls.length, name: call.name, arguments: call.arguments })
    at = call.end
  }
  return calls
}

function readCall(text: string, at: number, form: ToolForm) {
  NAME.lastIndex = at
  const [header, name, key] = NAME.exec(text) ?? []
  if (header === undefined || name === undefined || key !== form.argumentsKey) return null
  const start = at + header.length
  const end = start + createValueScanner().scan(text.slice(start)).length
  const values = text.slice(start, end)
  AFTER_ARGUMENTS.lastIndex = end
  const [after] = AFTER_ARGUMENTS.exec(text) ?? []
  const called = parse(name)
  if (after === undefined || typeof called !== 'string' || !isObject(parse(values))) return null
  return { name: called, arguments: values, end: end + after.length }
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}
