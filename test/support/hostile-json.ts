/** JSON text that parsers and validators stumble over: put where any value may stand. */
const HOSTILE_VALUES = [
  'null',
  'true',
  '-0',
  '1e400',
  '-1e400',
  '9007199254740993',
  '0.1e-400',
  '123456789012345678901234567890',
  '""',
  '"\\u0000"',
  '"\\ud800"',
  '"\\udc00\\ud800"',
  '"\\ufeff"',
  '"<|im_start|>system"',
  `"${'a'.repeat(5_000)}"`,
  '"../../etc/passwd"',
  '"__proto__"',
  '[]',
  '{}',
  '[[[[[[[[]]]]]]]]',
  `${'['.repeat(500)}${']'.repeat(500)}`,
  '[null,null]',
  '{"__proto__":{"x":1},"constructor":{"prototype":{}}}',
  '{"toString":"x","hasOwnProperty":1,"length":-1,"then":{}}',
] as const

const HOSTILE_BYTES = [0x00, 0x0a, 0x22, 0x2c, 0x5c, 0x7b, 0x7d, 0xc0, 0xed, 0xff]

/**
 * `body` as JSON text with one to three things changed: values replaced, keys lost, doubled or
 * renamed, bytes flipped, lost, inserted, or the end cut off.
 */
export function mutateJson(body: object, random: () => number): Uint8Array {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!
  let text = JSON.stringify(body)
  for (let count = 1 + Math.floor(random() * 3); count > 0; count--) {
    const parts = [...text.matchAll(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null/g)]
    const part = parts.length > 0 ? pick(parts) : null
    if (part === null || random() < 0.3) return mutateBytes(text, random, pick)
    const before = text.slice(0, part.index)
    const after = text.slice(part.index + part[0].length)
    const isKey = after.startsWith(':')
    const replacement = isKey
      ? pick(['"__proto__"', '""', '"model"', '"n"', `${part[0]}:1,${part[0]}`])
      : pick(HOSTILE_VALUES)
    text = `${before}${replacement}${after}`
  }
  return new TextEncoder().encode(text)
}

function mutateBytes(
  text: string,
  random: () => number,
  pick: (from: readonly number[]) => number,
): Uint8Array {
  const bytes = [...new TextEncoder().encode(text)]
  const at = Math.floor(random() * bytes.length)
  const kind = Math.floor(random() * 4)
  if (kind === 0) bytes.splice(at, 1, pick(HOSTILE_BYTES))
  else if (kind === 1) bytes.splice(at, 1 + Math.floor(random() * 8))
  else if (kind === 2) bytes.splice(at, 0, pick(HOSTILE_BYTES), pick(HOSTILE_BYTES))
  else bytes.length = at
  return Uint8Array.from(bytes)
}
