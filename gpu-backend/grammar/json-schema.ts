import { JSON_RULES, literal, repeat } from './ebnf.ts'
import { decimalRange, integerRange } from './number-range.ts'
import { STRING_FORMATS } from './string-formats.ts'

/** A schema asks for something that no grammar of ours can promise, or for nothing at all. */
export class SchemaError extends Error {
  /** Where in the schema: `properties.age.multipleOf`; '' for all of it. */
  readonly path: string

  constructor(path: string, message: string) {
    super(message)
    this.name = 'SchemaError'
    this.path = path
  }
}

const MAX_SCHEMA_LENGTH = 65_536
const MAX_NODE_COUNT = 2_000
const MAX_DEPTH = 32
const MAX_ENUM_COUNT = 1_000
/** Of `minLength`, `maxLength`, `minItems` and `maxItems`. */
const MAX_BOUND = 10_000

type Schema = Readonly<Record<string, unknown>>

const TYPE_NAMES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const
type TypeName = (typeof TYPE_NAMES)[number]

/** Keywords that promise nothing about the value. */
const ANNOTATIONS = new Set(
  '$schema $id $comment $defs definitions title description default examples deprecated readOnly writeOnly'.split(
    ' ',
  ),
)
/** Keywords that say all of a value, and which `type` may stand beside at most. */
const WHOLES = ['$ref', 'anyOf', 'enum', 'const'] as const

const KEYWORDS_OF_TYPE: Readonly<Partial<Record<TypeName, readonly string[]>>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
}
const CONSTRAINTS = new Set(Object.values(KEYWORDS_OF_TYPE).flat())

interface Place {
  readonly path: string
  readonly depth: number
  /** Rules that are being written and could be entered again without a character in between. */
  readonly open: ReadonlySet<string>
}

/** Collects the rules of one grammar: those of JSON, and whatever schemas and rules are added. */
export interface GrammarBuilder {
  /** The name of the rule that matches the JSON values of a schema. Throws {@link SchemaError}. */
  readonly addSchema: (schema: unknown) => string
  readonly addRule: (body: string) => string
  /** The grammar, to begin at this rule. */
  readonly build: (root: string) => string
}

export function createGrammarBuilder(): GrammarBuilder {
  const rules: string[] = []
  const addRule = (body: string) => {
    rules.push(body)
    return `r${rules.length - 1}`
  }
  return {
    addRule,
    addSchema: (schema) => new SchemaWriter(schema, rules).write(),
    build: (root) =>
      `${JSON_RULES}${rules.map((body, i) => `r${i} ::= ${body}\n`).join('')}root ::= ${root}\n`,
  }
}

/**
 * Writes the grammar of one schema: every text that it matches parses, and is valid by the schema.
 * The other way round it is narrower: properties come in the schema's order, unnamed ones only where
 * none is named, and without white space but `, ` and `: `. A keyword that it cannot keep is refused.
 */
class SchemaWriter {
  readonly #document: unknown
  readonly #rules: string[]
  readonly #rulesByRef = new Map<string, string>()
  #nodeCount = 0

  constructor(document: unknown, rules: string[]) {
    this.#document = document
    this.#rules = rules
  }

  write(): string {
    if (JSON.stringify(this.#document).length > MAX_SCHEMA_LENGTH) {
      throw new SchemaError('', `must not be longer than ${MAX_SCHEMA_LENGTH} characters of JSON`)
    }
    return this.#ref('#', { path: '', depth: 0, open: new Set() })
  }

  #value(schema: unknown, place: Place): string {
    this.#nodeCount++
    if (this.#nodeCount > MAX_NODE_COUNT) {
      throw new SchemaError(
        place.path,
        `the schema must not have more than ${MAX_NODE_COUNT} parts`,
      )
    }
    if (place.depth > MAX_DEPTH) {
      throw new SchemaError(place.path, `must not be nested deeper than ${MAX_DEPTH}`)
    }
    if (schema === true) return 'value'
    if (!isObject(schema))
      throw new SchemaError(place.path, 'must be a schema that allows something')
    checkKeywords(schema, place)
    const types = readTypes(schema, place)
    if (schema.$ref !== undefined) return this.#refOf(schema.$ref, place)
    if (schema.anyOf !== undefined) return this.#anyOf(schema.anyOf, place)
    if (schema.const !== undefined) return literals([schema.const], types, at(place, 'const'))
    if (schema.enum !== undefined) return literals(schema.enum, types, at(place, 'enum'))
    if (types === null) return 'value'
    return choice(types.map((type) => this.#ofType(type, schema, place)))
  }

  #ofType(type: TypeName, schema: Schema, place: Place): string {
    switch (type) {
      case 'object':
        return this.#object(schema, place)
      case 'array':
        return this.#array(schema, place)
      case 'string':
        return stringBody(schema, place)
      case 'number':
      case 'integer':
        return numberBody(type, schema, place)
      case 'boolean':
        return '"true" | "false"'
      case 'null':
        return '"null"'
    }
  }

  #refOf(ref: unknown, place: Place): string {
    const here = at(place, '$ref')
    if (typeof ref !== 'string' || !/^#(\/|$)/.test(ref)) {
      throw new SchemaError(
        here.path,
        'must be a reference into the schema itself, as #/$defs/name',
      )
    }
    return this.#ref(ref, here)
  }

  #ref(ref: string, place: Place): string {
    if (place.open.has(ref)) throw new SchemaError(place.path, 'refers to itself and nothing else')
    const found = this.#rulesByRef.get(ref)
    if (found !== undefined) return found
    const index = this.#rules.push('') - 1
    this.#rulesByRef.set(ref, `r${index}`)
    const target = resolve(this.#document, ref, place)
    this.#rules[index] = this.#value(target, { ...place, open: new Set([...place.open, ref]) })
    return `r${index}`
  }

  #anyOf(schemas: unknown, place: Place): string {
    const here = at(place, 'anyOf')
    if (!Array.isArray(schemas) || schemas.length === 0) {
      throw new SchemaError(here.path, 'must be a list of schemas')
    }
    return choice(schemas.map((schema, i) => this.#value(schema, at(here, i))))
  }

  /** The rule of a value inside an object or array. */
  #inner(schema: unknown, place: Place): string {
    const body = this.#value(schema, { ...place, open: new Set() })
    if (/^\w+$/.test(body)) return body
    return `r${this.#rules.push(body) - 1}`
  }

  #object(schema: Schema, place: Place): string {
    const properties = readObject(schema.properties ?? {}, at(place, 'properties'))
    const required = readRequired(schema, properties, place)
    const members = Object.entries(properties).map(([name, property]) => ({
      body: `${literal(`${JSON.stringify(name)}: `)} ${this.#inner(property, at(at(place, 'properties'), name))}`,
      isRequired: required.has(name),
    }))
    if (members.length === 0) return this.#map(schema, place)
    // `rest`: what may follow a member; `start`: what may follow the brace.
    let rest = '""'
    let start: string | null = '""'
    for (const { body, isRequired } of members.toReversed()) {
      const startWithout: string | null = isRequired ? null : start
      start = choice([...(startWithout === null ? [] : [startWithout]), `${body} ${rest}`])
      start = `r${this.#rules.push(start) - 1}`
      const more = `", " ${body} ${rest}`
      rest = `r${this.#rules.push(isRequired ? more : choice([more, rest])) - 1}`
    }
    return `"{" ${start} "}"`
  }

  /** An object whose names are free. */
  #map(schema: Schema, place: Place): string {
    const values = schema.additionalProperties ?? true
    if (values === false) return '"{}"'
    const member = `string ": " ${this.#inner(values, at(place, 'additionalProperties'))}`
    return `"{" (${member} (", " ${member})*)? "}"`
  }

  #array(schema: Schema, place: Place): string {
    const item = this.#inner(schema.items ?? true, at(place, 'items'))
    const [least, most] = readBounds(schema, ['minItems', 'maxItems'], place)
    if (most === 0) return '"[]"'
    const more = repeat(`(", " ${item})`, Math.max(0, least - 1), most === null ? null : most - 1)
    return least === 0 ? `"[" (${item} ${more})? "]"` : `"[" ${item} ${more} "]"`
  }
}

function stringBody(schema: Schema, place: Place): string {
  const { format } = schema
  if (format === undefined) {
    const [least, most] = readBounds(schema, ['minLength', 'maxLength'], place)
    return `"\\"" ${repeat('char', least, most)} "\\""`
  }
  const body = typeof format === 'string' ? STRING_FORMATS.get(format) : undefined
  if (body === undefined) {
    const known = [...STRING_FORMATS.keys()].join(', ')
    throw new SchemaError(at(place, 'format').path, `is not supported; these are: ${known}`)
  }
  for (const keyword of ['minLength', 'maxLength']) {
    if (schema[keyword] !== undefined) {
      throw new SchemaError(at(place, keyword).path, 'is not supported together with format')
    }
  }
  return `"\\"" ${body} "\\""`
}

function numberBody(type: 'number' | 'integer', schema: Schema, place: Place): string {
  const bounds = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'] as const
  if (bounds.every((keyword) => schema[keyword] === undefined)) return type
  const [minimum, maximum, above, below] = bounds.map((keyword) => {
    const value = schema[keyword]
    const { path } = at(place, keyword)
    if (value === undefined) return null
    if (!Number.isSafeInteger(value)) throw new SchemaError(path, 'must be a whole number')
    if (type === 'number' && keyword.startsWith('exclusive')) {
      throw new SchemaError(path, 'is supported for the type integer only')
    }
    return BigInt(Number(value))
  })
  const range = {
    minimum: furthest(minimum ?? null, above == null ? null : above + 1n, (a, b) => a > b),
    maximum: furthest(maximum ?? null, below == null ? null : below - 1n, (a, b) => a < b),
  }
  const body = type === 'integer' ? integerRange(range) : decimalRange(range)
  if (body === null) throw new SchemaError(place.path, 'allows no number')
  return body
}

function furthest(
  a: bigint | null,
  b: bigint | null,
  isFurther: (a: bigint, b: bigint) => boolean,
) {
  if (a === null || b === null) return a ?? b
  return isFurther(a, b) ? a : b
}

function checkKeywords(schema: Schema, place: Place): void {
  const whole = WHOLES.find((keyword) => schema[keyword] !== undefined)
  for (const keyword of Object.keys(schema)) {
    if (keyword === 'type' || keyword === whole || ANNOTATIONS.has(keyword)) continue
    const { path } = at(place, keyword)
    if (!CONSTRAINTS.has(keyword) && !WHOLES.some((other) => other === keyword)) {
      throw new SchemaError(path, `the keyword ${keyword} is not supported`)
    }
    if (whole !== undefined) {
      throw new SchemaError(path, `${keyword} is not supported beside ${whole}`)
    }
  }
}

/** Null: any type. Where `type` is absent, it is the one whose keywords are there. */
function readTypes(schema: Schema, place: Place): readonly TypeName[] | null {
  if (schema.type === undefined) {
    const implied = TYPE_NAMES.filter((type) =>
      KEYWORDS_OF_TYPE[type]?.some((keyword) => schema[keyword] !== undefined),
    )
    return implied.length === 0 ? null : implied
  }
  const types = Array.isArray(schema.type) ? schema.type : [schema.type]
  const known = TYPE_NAMES.filter((name) => types.includes(name))
  if (known.length === 0 || types.some((type) => !TYPE_NAMES.some((name) => name === type))) {
    throw new SchemaError(at(place, 'type').path, `must be of ${TYPE_NAMES.join(', ')}`)
  }
  if (schema.$ref !== undefined || schema.anyOf !== undefined) {
    throw new SchemaError(at(place, 'type').path, 'is not supported beside $ref or anyOf')
  }
  return known
}

function literals(values: unknown, types: readonly TypeName[] | null, place: Place): string {
  if (!Array.isArray(values) || values.length === 0 || values.length > MAX_ENUM_COUNT) {
    throw new SchemaError(place.path, `must be a list of 1 to ${MAX_ENUM_COUNT} values`)
  }
  const allowed = values.filter(
    (value) => types === null || types.some((type) => isOf(type, value)),
  )
  if (allowed.length === 0) throw new SchemaError(place.path, 'has no value of the type')
  return choice(allowed.map((value) => literal(JSON.stringify(value))))
}

function isOf(type: TypeName, value: unknown): boolean {
  switch (type) {
    case 'object':
      return isObject(value)
    case 'array':
      return Array.isArray(value)
    case 'integer':
      return Number.isInteger(value)
    case 'null':
      return value === null
    default:
      return typeof value === type
  }
}

function readRequired(schema: Schema, properties: Schema, place: Place): ReadonlySet<unknown> {
  const here = at(place, 'required')
  const required = schema.required ?? []
  if (!Array.isArray(required)) throw new SchemaError(here.path, 'must be a list of names')
  const unknown = required.find((name) => !Object.hasOwn(properties, String(name)))
  if (unknown === undefined) return new Set(required)
  throw new SchemaError(here.path, `names ${JSON.stringify(unknown)}, which is no property`)
}

function readBounds(
  schema: Schema,
  [leastKeyword, mostKeyword]: readonly [string, string],
  place: Place,
): readonly [number, number | null] {
  const read = (keyword: string) => {
    const value = schema[keyword]
    if (value === undefined) return null
    if (Number.isInteger(value) && Number(value) >= 0 && Number(value) <= MAX_BOUND) {
      return Number(value)
    }
    throw new SchemaError(at(place, keyword).path, `must be a whole number of 0 to ${MAX_BOUND}`)
  }
  const least = read(leastKeyword) ?? 0
  const most = read(mostKeyword)
  if (most === null || least <= most) return [least, most]
  throw new SchemaError(at(place, leastKeyword).path, `must not be more than ${mostKeyword}`)
}

function readObject(value: unknown, place: Place): Schema {
  if (isObject(value)) return value
  throw new SchemaError(place.path, 'must be an object')
}

function resolve(document: unknown, ref: string, place: Place): unknown {
  let target = document
  for (const step of ref.split('/').slice(1)) {
    const name = decodeURIComponentSafe(step).replaceAll('~1', '/').replaceAll('~0', '~')
    const parent: unknown = target
    target =
      typeof parent === 'object' && parent !== null && Object.hasOwn(parent, name)
        ? (parent as Schema)[name] // an object or array that has the name
        : undefined
    if (target === undefined) throw new SchemaError(place.path, `there is no ${ref} in the schema`)
  }
  return target
}

function decodeURIComponentSafe(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function choice(bodies: readonly string[]): string {
  return bodies.length === 1 ? (bodies[0] ?? '') : bodies.map((body) => `(${body})`).join(' | ')
}

function at(place: Place, step: string | number): Place {
  const path = typeof step === 'number' ? `${place.path}[${step}]` : `${place.path}.${step}`
  return { ...place, path: path.replace(/^\./, ''), depth: place.depth + 1 }
}

function isObject(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
