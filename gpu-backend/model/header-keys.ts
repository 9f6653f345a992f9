import { ModelFileError } from './model-file-error.ts'

/** Entries, and the lists in them. */
const MAX_DEPTH = 4
const MAX_NAME_LENGTH = 1_000

const QUOTE = 0x22
const BACKSLASH = 0x5c

/**
 * Looks over the keys of a safetensors header before it is parsed, and gives those of the outermost
 * object. Throws {@link ModelFileError} where a key stands twice in an object, of which readers keep
 * one or the other, where a name is over-long, and where objects and lists nest deeper than a header's.
 */
export function readHeaderKeys(header: string): ReadonlySet<string> {
  const open: Set<string>[] = []
  const names = new Set<string>()
  for (let at = 0; at < header.length; at++) {
    const char = header.charAt(at)
    if (char === '{' || char === '[') {
      if (open.length === MAX_DEPTH) {
        throw new ModelFileError(`The header nests more than ${MAX_DEPTH} objects and lists.`)
      }
      open.push(open.length === 0 ? names : new Set())
    } else if (char === '}' || char === ']') {
      open.pop()
    } else if (char === '"') {
      const end = findStringEnd(header, at)
      if (isKey(header, end)) noteKey(open, header.slice(at, end))
      at = end - 1
    }
  }
  return names
}

/** Behind the closing quotation mark, or the end of the text. */
function findStringEnd(text: string, start: number): number {
  let at = start + 1
  while (at < text.length && text.charCodeAt(at) !== QUOTE) {
    at += text.charCodeAt(at) === BACKSLASH ? 2 : 1
  }
  return Math.min(at + 1, text.length)
}

function isKey(text: string, end: number): boolean {
  let at = end
  while (' \t\r\n'.includes(text.charAt(at)) && at < text.length) at += 1
  return text.charAt(at) === ':'
}

function noteKey(open: readonly Set<string>[], literal: string): void {
  if (literal.length > MAX_NAME_LENGTH) {
    throw new ModelFileError(
      `The name ${literal.slice(0, 40)}…" has more than ${MAX_NAME_LENGTH} characters.`,
    )
  }
  const name = parseString(literal)
  const keys = open.at(-1)
  if (name === null || keys === undefined) return
  if (keys.has(name)) {
    const what = open.length === 1 ? 'Tensor' : 'The field'
    throw new ModelFileError(`${what} "${name}" stands in the header twice.`)
  }
  keys.add(name)
}

/** Null for what is no string: the parser will say so. */
function parseString(literal: string): string | null {
  try {
    return String(JSON.parse(literal))
  } catch {
    return null
  }
}
