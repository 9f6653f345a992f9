/** A text as EBNF matches it, character by character. */
export function literal(text: string): string {
  const escaped = Array.from(text.toWellFormed(), (char) => {
    const code = char.codePointAt(0) ?? 0
    if (char === '"' || char === '\\') return `\\${char}`
    if (code >= 0x20 && code <= 0x7e) return char
    return `\\U${code.toString(16).padStart(8, '0')}`
  })
  return `"${escaped.join('')}"`
}

/** `least` to `most` (null: any number) of an item that is one symbol or in brackets. */
export function repeat(item: string, least: number, most: number | null): string {
  if (most === 0) return '""'
  if (least === 1 && most === 1) return item
  if (least === 0 && most === 1) return `${item}?`
  return least === 0 && most === null ? `${item}*` : `${item}{${least},${most ?? ''}}`
}

/** A code point beyond ASCII, in its bytes. */
const UTF8 = String.raw`[\xC2-\xDF] [\x80-\xBF] | [\xE0-\xEC\xEE-\xEF] [\xA0-\xBF] [\x80-\xBF] | [\xE1-\xEF] [\x80-\x9F] [\x80-\xBF] | [\xF0-\xF3] [\x90-\xBF] [\x80-\xBF]{2} | [\xF1-\xF4] [\x80-\x8F] [\x80-\xBF]{2}`

/**
 * One code point inside a string, so that lengths can be counted. XGrammar (0.1.27) reads a class of
 * several as bytes, one of a single character as that character.
 */
export const CHAR = String.raw`[ !#-\[\]-~] | "\\" ["\\/bfnrt] | "\\u" [0-9A-CE-Fa-ce-f] [0-9A-Fa-f]{3} | "\\u" [Dd] [0-7] [0-9A-Fa-f]{2} | ${UTF8}`

/**
 * Rules of JSON without free white space, on which a model could go on for ever. Numbers have so few
 * digits that a double holds them. A string is written without the rule `char`: XGrammar knows which
 * tokens lie within a rule when it compiles, and must try all that go beyond one in each step. Where
 * characters are counted, compiling each of them would cost more than that.
 */
export const JSON_RULES = String.raw`
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" (member (", " member)*)? "}"
member ::= string ": " value
array ::= "[" (value (", " value)*)? "]"
string ::= "\"" (${CHAR})* "\""
char ::= [ !#-\[\]-~] | "\\" escape | utf8
escape ::= ["\\/bfnrt] | "u" ([0-9A-CE-Fa-ce-f] hex{3} | [Dd] [0-7] hex{2})
control ::= "\\" ([bfnrt] | "u00" [01] hex)
hex ::= [0-9A-Fa-f]
utf8 ::= ${UTF8}
integer ::= "0" | "-"? [1-9] [0-9]{0,14}
number ::= "-"? ("0" | [1-9] [0-9]{0,14}) fraction? ([eE] [+-]? [0-9]{1,2})?
fraction ::= "." [0-9]{1,15}
`
