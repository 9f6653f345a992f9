import { matchAll } from './automaton.ts'
import { writeAutomaton } from './automaton-rules.ts'
import { areDisjoint } from './disjoint.ts'
import { JSON_RULES, literal, repeat } from './ebnf.ts'
import { numberBody } from './number-body.ts'
import { type Pattern, PatternError, parsePattern } from './pattern-syntax.ts'
import {
  at,
  isObject,
  isOf,
  type Place,
  resolve,
  type Schema,
  SchemaError,
  TYPE_NAMES,
  type TypeName,
} from './schema-parts.ts'
import { STRING_FORMATS } from './string-formats.ts'

const MAX_SCHEMA_LENGTH = 65_536
const MAX_NODE_COUNT = 2_000
const MAX_DEPTH = 32
const MAX_ENUM_COUNT = 1_000
const MAX_ONE_OF_COUNT = 64
/** Of `minLength`, `maxLength`, `minItems` and `maxItems`. */
const MAX_BOUND = 10_000
/** Of `maxLength`: counting to more than this holds XGrammar (0.1.27) up for much of a second a step (docs/LOG.md). */
const MAX_LENGTH = 128

/** Keywords that promise nothing about the value. */
const ANNOTATIONS = new Set(
  '$schema $id $comment discriminator $defs definitions title description default examples deprecated readOnly writeOnly'.split(
    ' ',
  ),
)
/** Keywords that say all of a value, and which `type` may stand beside at most. */
const WHOLES = ['$ref', 'anyOf', 'oneOf', 'allOf', 'enum', 'const'] as const

const KEYWORDS_OF_TYPE: Readonly<Partial<Record<TypeName, readonly string[]>>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'format', 'pattern'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
}
const CONSTRAINTS = new Set(Object.values(KEYWORDS_OF_TYPE).flat())

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
    if (schema.anyOf !== undefined) return this.#anyOf(schema.anyOf, at(place, 'anyOf'))
    if (schema.oneOf !== undefined) return this.#oneOf(schema.oneOf, at(place, 'oneOf'))
    if (schema.allOf !== undefined) return this.#allOf(schema.allOf, at(place, 'allOf'))
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
        return this.#string(schema, place)
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
    const options = readSchemas(schemas, place)
    return choice(options.map((schema, i) => this.#value(schema, at(place, i))))
  }

  /** As any of them, where no value can be of two. */
  #oneOf(schemas: unknown, place: Place): string {
    const options = readSchemas(schemas, place)
    if (options.length > MAX_ONE_OF_COUNT) {
      throw new SchemaError(place.path, `must not have more than ${MAX_ONE_OF_COUNT} options`)
    }
    options.forEach((schema, i) => {
      const other = options.findIndex(
        (one, at) => at < i && !areDisjoint(one, schema, this.#document),
      )
      if (other < 0) return
      throw new SchemaError(
        at(place, i).path,
        `may hold together with option ${other}: options must differ in type, or in a required property that is a constant`,
      )
    })
    return this.#anyOf(options, place)
  }

  #allOf(schemas: unknown, place: Place): string {
    const [schema, ...others] = readSchemas(schemas, place)
    if (others.length === 0) return this.#value(schema, at(place, 0))
    throw new SchemaError(place.path, 'is supported with a single schema only')
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

  #string(schema: Schema, place: Place): string {
    const [least, most] = readBounds(schema, ['minLength', 'maxLength'], place)
    const patterns = readPatterns(schema, place)
    if (patterns.length > 0) {
      const here = at(place, schema.pattern === undefined ? 'format' : 'pattern')
      const body = keep(here, () =>
        writeAutomaton(matchAll(patterns, { least, most }), {
          reserve: () => `r${this.#rules.push('') - 1}`,
          define: (name, rule) => {
            this.#rules[Number(name.slice(1))] = rule
          },
        }),
      )
      return `"\\"" ${body} "\\""`
    }
    if (most !== null && most > MAX_LENGTH) {
      throw new SchemaError(at(place, 'maxLength').path, `must not be more than ${MAX_LENGTH}`)
    }
    if (least === 0 && most === null) return 'string'
    return `"\\"" ${repeat('char', least, most)} "\\""`
  }

  #array(schema: Schema, place: Place): string {
    const item = this.#inner(schema.items ?? true, at(place, 'items'))
    const [least, most] = readBounds(schema, ['minItems', 'maxItems'], place)
    if (most === 0) return '"[]"'
    const more = repeat(`(", " ${item})`, Math.max(0, least - 1), most === null ? null : most - 1)
    return least === 0 ? `"[" (${item} ${more})? "]"` : `"[" ${item} ${more} "]"`
  }
}

/** Of `format` and `pattern`: a text must match each. */
function readPatterns({ format, pattern }: Schema, place: Place): readonly Pattern[] {
  const source = typeof format === 'string' ? STRING_FORMATS.get(format) : undefined
  // As in JSON Schema, a format that is not known says nothing; here only where a pattern does.
  if (format !== undefined && source === undefined && pattern === undefined) {
    const known = [...STRING_FORMATS.keys()].join(', ')
    throw new SchemaError(at(place, 'format').path, `is not supported; these are: ${known}`)
  }
  const here = at(place, 'pattern')
  if (pattern !== undefined && typeof pattern !== 'string') {
    throw new SchemaError(here.path, 'must be a regular expression in a string')
  }
  return [source, pattern].flatMap((one) =>
    one === undefined ? [] : [keep(here, () => parsePattern(one))],
  )
}

function keep<Result>(place: Place, make: () => Result): Result {
  try {
    return make()
  } catch (error) {
    if (!(error instanceof PatternError)) throw error
    // biome-ignore lint/style/useErrorCause: the message is the cause's own
    throw new SchemaError(place.path, error.message)
  }
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
  const beside = (['$ref', 'anyOf', 'oneOf', 'allOf'] as const).find(
    (keyword) => schema[keyword] !== undefined,
  )
  if (beside !== undefined) {
    throw new SchemaError(at(place, 'type').path, `is not supported beside ${beside}`)
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

function readSchemas(schemas: unknown, place: Place): readonly unknown[] {
  if (Array.isArray(schemas) && schemas.length > 0) return schemas
  throw new SchemaError(place.path, 'must be a list of schemas')
}

function readObject(value: unknown, place: Place): Schema {
  if (isObject(value)) return value
  throw new SchemaError(place.path, 'must be an object')
}

function choice(bodies: readonly string[]): string {
  return bodies.length === 1 ? (bodies[0] ?? '') : bodies.map((body) => `(${body})`).join(' | ')
}
