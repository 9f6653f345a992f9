import { matchAll } from './automaton.ts'
import { writeAutomaton } from './automaton-rules.ts'
import { areDisjoint } from './disjoint.ts'
import { JSON_RULES, literal, repeat } from './ebnf.ts'
import { mergeSchemas } from './merge-schemas.ts'
import { numberBody } from './number-body.ts'
import { type Pattern, PatternError, parsePattern } from './pattern-syntax.ts'
import {
  ANNOTATIONS,
  checkKeywords,
  isMany,
  mayCopyItself,
  readBounds,
  readObject,
  readRef,
  readRequired,
  readSchemas,
  readTypes,
} from './schema-keywords.ts'
import {
  at,
  isObject,
  isOf,
  type Place,
  resolve,
  type Schema,
  SchemaError,
  type TypeName,
} from './schema-parts.ts'
import { STRING_FORMATS } from './string-formats.ts'

const MAX_SCHEMA_LENGTH = 65_536
const MAX_NODE_COUNT = 2_000
/** So many characters count as a part where they are merged. */
const LENGTH_OF_PART = 32
const MAX_DEPTH = 32
const MAX_ENUM_COUNT = 1_000
const MAX_ONE_OF_COUNT = 64
/** Of `maxLength`: counting to more than this holds XGrammar (0.1.27) up for much of a second a step (docs/LOG.md). */
const MAX_LENGTH = 128

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
  readonly #rulesBySchema = new Map<Schema, string>()
  /** Options of which it is known that no two hold together. */
  readonly #checked = new Set<readonly unknown[]>()
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
    this.#count(1, place)
    if (schema === true) return 'value'
    if (!isObject(schema))
      throw new SchemaError(place.path, 'must be a schema that allows something')
    checkKeywords(schema, place)
    const types = readTypes(schema, place)
    if (isMany(schema)) return this.#together(schema, place)
    if (schema.$ref !== undefined) return this.#refOf(schema.$ref, place)
    if (schema.anyOf !== undefined) return this.#anyOf(schema.anyOf, at(place, 'anyOf'))
    if (schema.oneOf !== undefined) return this.#oneOf(schema.oneOf, at(place, 'oneOf'))
    if (schema.allOf !== undefined) {
      const here = at(place, 'allOf')
      return this.#value(readSchemas(schema.allOf, here)[0], at(here, 0))
    }
    if (schema.const !== undefined) return literals([schema.const], types, at(place, 'const'))
    if (schema.enum !== undefined) return literals(schema.enum, types, at(place, 'enum'))
    if (types === null) return 'value'
    return choice(types.map((type) => this.#ofType(type, schema, place)))
  }

  #count(partCount: number, place: Place): void {
    this.#nodeCount += partCount
    if (this.#nodeCount > MAX_NODE_COUNT) {
      throw new SchemaError(
        place.path,
        `the schema must not have more than ${MAX_NODE_COUNT} parts`,
      )
    }
    if (place.depth > MAX_DEPTH) {
      throw new SchemaError(place.path, `must not be nested deeper than ${MAX_DEPTH}`)
    }
  }

  /** What several schemas allow together: as one schema, for each option of a union among them. */
  #together(schema: Schema, place: Place): string {
    const parts = this.#partsOf(schema, place)
    const index = parts.findIndex(
      (part) => part.schema.anyOf !== undefined || part.schema.oneOf !== undefined,
    )
    const union = parts[index]
    if (union !== undefined) {
      const others = parts.toSpliced(index, 1).map((part) => part.schema)
      const { keyword, options } = this.#optionsOf(union)
      const here = at(union.place, keyword)
      return choice(
        options.map((option, i) => this.#value({ allOf: [option, ...others] }, at(here, i))),
      )
    }
    // What is copied counts as if it had been sent as often, so that grammars stay as small.
    for (const part of parts) {
      this.#count(Math.floor(JSON.stringify(part.schema).length / LENGTH_OF_PART), place)
    }
    return this.#value(
      parts.reduce<Schema>((merged, part) => mergeSchemas(merged, part.schema, part.place), {}),
      place,
    )
  }

  /** Schemas without `$ref` and `allOf`, each a single union or none, that together say the same. */
  #partsOf(schema: unknown, place: Place): { schema: Schema; place: Place }[] {
    this.#count(1, place)
    if (schema === true) return []
    if (!isObject(schema))
      throw new SchemaError(place.path, 'must be a schema that allows something')
    checkKeywords(schema, place)
    readTypes(schema, place)
    const { $ref, allOf, anyOf, oneOf, ...rest } = schema
    const own = Object.entries(rest).filter(([keyword]) => !ANNOTATIONS.has(keyword))
    const parts: { schema: Schema; place: Place }[] = []
    if ($ref !== undefined) {
      const ref = readRef($ref, at(place, '$ref'))
      const here = this.#open(ref, at(place, '$ref'))
      parts.push(...this.#partsOf(resolve(this.#document, ref, here), here))
    }
    if (allOf !== undefined) {
      const here = at(place, 'allOf')
      parts.push(...readSchemas(allOf, here).flatMap((one, i) => this.#partsOf(one, at(here, i))))
    }
    if (own.length > 0) parts.push({ schema: Object.fromEntries(own), place })
    if (anyOf !== undefined) parts.push({ schema: { anyOf }, place })
    if (oneOf !== undefined) parts.push({ schema: { oneOf }, place })
    return parts
  }

  #optionsOf({ schema, place }: { schema: Schema; place: Place }) {
    const keyword = schema.anyOf === undefined ? 'oneOf' : 'anyOf'
    const options = readSchemas(schema[keyword], at(place, keyword))
    if (keyword === 'oneOf') this.#checkOneOf(options, at(place, keyword))
    return { keyword, options }
  }

  #open(ref: string, place: Place): Place {
    if (!place.open.has(ref)) return { ...place, open: new Set([...place.open, ref]) }
    throw new SchemaError(place.path, 'refers to itself and nothing else')
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
    return this.#ref(readRef(ref, here), here)
  }

  #ref(ref: string, place: Place): string {
    const inside = this.#open(ref, place)
    const found = this.#rulesByRef.get(ref)
    if (found !== undefined) return found
    const index = this.#rules.push('') - 1
    this.#rulesByRef.set(ref, `r${index}`)
    const target = resolve(this.#document, ref, place)
    this.#rules[index] = this.#value(target, inside)
    return `r${index}`
  }

  #anyOf(schemas: unknown, place: Place): string {
    const options = readSchemas(schemas, place)
    return choice(options.map((schema, i) => this.#value(schema, at(place, i))))
  }

  /** As any of them, where no value can be of two. */
  #oneOf(schemas: unknown, place: Place): string {
    this.#checkOneOf(readSchemas(schemas, place), place)
    return this.#anyOf(schemas, place)
  }

  #checkOneOf(options: readonly unknown[], place: Place): void {
    if (this.#checked.has(options)) return
    this.#checked.add(options)
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
  }

  /** The rule of a value inside an object or array. */
  #inner(schema: unknown, place: Place): string {
    const inside = { ...place, open: new Set<string>() }
    if (isObject(schema) && mayCopyItself(schema)) return this.#once(schema, inside)
    const body = this.#value(schema, inside)
    if (/^\w+$/.test(body)) return body
    return `r${this.#rules.push(body) - 1}`
  }

  /** Merging copies what is referred to: a rule for each schema lets one contain itself. */
  #once(schema: Schema, place: Place): string {
    const found = this.#rulesBySchema.get(schema)
    if (found !== undefined) return found
    const index = this.#rules.push('') - 1
    this.#rulesBySchema.set(schema, `r${index}`)
    this.#rules[index] = this.#value(schema, place)
    return `r${index}`
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

function choice(bodies: readonly string[]): string {
  return bodies.length === 1 ? (bodies[0] ?? '') : bodies.map((body) => `(${body})`).join(' | ')
}
