import fc from 'fast-check'

// biome-ignore lint/suspicious/noExplicitAny: the keywords of any schema
type Schema = Readonly<Record<string, any>>

const bounds = (max: number) =>
  fc.tuple(fc.nat(max), fc.nat(max)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const)

/** `"` is not beside a backslash: Node 24.21 takes one for the other (docs/LOG.md). */
const name = fc.oneof(
  fc.constantFrom('a', 'b', 'name', 'two words', 'ü', '"', '__proto__', ''),
  fc.string({ maxLength: 5 }),
)
const json = fc.jsonValue({ maxDepth: 2 })

/** Any several of them allow something together. */
const partOfNumber = fc
  .tuple(fc.constantFrom('integer', 'number'), fc.integer({ min: -99, max: 0 }), fc.nat(99))
  .map(([type, minimum, maximum]) => ({ type, minimum, maximum }))
export const partOfObject = fc.dictionary(name, partOfNumber, { maxKeys: 3 }).chain((properties) =>
  fc
    .tuple(fc.subarray(Object.keys(properties)), fc.oneof(fc.constant({}), partOfNumber))
    .map(([required, additionalProperties]) => ({
      type: 'object',
      properties,
      required,
      additionalProperties,
    })),
)

/** Small schemas of every keyword that `isValid` knows, as they come out of a request's JSON. */
export const anySchema: fc.Arbitrary<Schema> = fc
  .letrec<{ schema: Schema }>((tie) => ({
    schema: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      fc.oneof(
        fc.constantFrom('string', 'number', 'integer', 'boolean', 'null').map((type) => ({ type })),
        fc.constant({ type: ['integer', 'null'] }),
        bounds(5).map(([minLength, maxLength]) => ({ type: 'string', minLength, maxLength })),
        fc
          .tuple(fc.constantFrom('integer', 'number'), fc.integer(), fc.integer())
          .map(([type, a, b]) => ({ type, minimum: Math.min(a, b), maximum: Math.max(a, b) })),
        fc
          .integer({ min: -200, max: 200 })
          .map((exclusiveMinimum) => ({ type: 'integer', exclusiveMinimum })),
        fc.constantFrom('date', 'time', 'date-time', 'uuid', 'ipv4', 'email').map((format) => ({
          type: 'string',
          format,
        })),
        fc.array(json, { minLength: 1, maxLength: 4 }).map((values) => ({ enum: values })),
        json.map((value) => ({ const: value })),
      ),
      fc
        .tuple(tie('schema'), bounds(3))
        .map(([items, [minItems, maxItems]]) => ({ type: 'array', items, minItems, maxItems })),
      fc
        .tuple(fc.dictionary(name, tie('schema'), { maxKeys: 4 }), fc.nat())
        .map(([properties, bits]) => ({
          type: 'object',
          properties,
          required: Object.keys(properties).filter((_, i) => (bits >> i) & 1),
          additionalProperties: false,
        })),
      tie('schema').map((additionalProperties) => ({ type: 'object', additionalProperties })),
      fc.array(tie('schema'), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
      tie('schema').map((part) => ({ allOf: [part], description: 'One.' })),
      fc
        .record({
          allOf: fc.array(partOfObject, { maxLength: 3, minLength: 1 }),
          base: partOfObject,
        })
        .map(({ allOf, base }) => ({ ...base, allOf })),
      fc
        .record({
          anyOf: fc.array(partOfNumber, { maxLength: 3, minLength: 1 }),
          base: partOfNumber,
        })
        .map(({ anyOf, base }) => ({ ...base, anyOf })),
      fc.array(tie('schema'), { minLength: 1, maxLength: 3 }).map((inners) => ({
        discriminator: { propertyName: 'kind' },
        oneOf: inners.map((inner, kind) => ({
          type: 'object',
          properties: { inner, kind: { const: kind } },
          required: ['kind'],
        })),
      })),
      fc.array(json, { minLength: 1, maxLength: 2 }).map((values) => ({
        oneOf: [{ type: 'array' }, { enum: values.map(String) }, { type: ['number', 'null'] }],
      })),
    ),
  }))
  .schema.map((schema) => JSON.parse(JSON.stringify(schema)))

/** Whether the calendar has it: a day that it lacks is another one when written again. */
const isInstant = (text: string) =>
  !Number.isNaN(Date.parse(text)) && new Date(text).toISOString().slice(0, 19) === text.slice(0, 19)

const FORMATS: Readonly<Record<string, (text: string) => boolean>> = {
  date: (text) => /^\d{4}-\d\d-\d\d$/.test(text) && isInstant(`${text}T00:00:00Z`),
  time: (text) => isInstant(`2020-01-01T${text}`),
  'date-time': isInstant,
  uuid: (text) =>
    /^[\da-f]{8}-[\da-f]{4}-[1-8][\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/i.test(text),
  ipv4: (text) =>
    text.split('.').length === 4 &&
    text.split('.').every((part) => String(Number(part)) === part && Number(part) < 256),
  email: (text) => /^[^@\s]+@[^@\s.]+(\.[^@\s.]+)+$/.test(text),
}

const isSame = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b)

/** Whether a value is valid by a schema, as JSON Schema 2020-12 says. */
export function isValid(schema: Schema, value: unknown): boolean {
  const isPart = (part: Schema) => isValid(part, value)
  if (schema.allOf && !schema.allOf.every(isPart)) return false
  if (schema.oneOf && schema.oneOf.filter(isPart).length !== 1) return false
  if (schema.anyOf && !schema.anyOf.some(isPart)) return false
  if ('const' in schema) return isSame(schema.const, value)
  if (schema.enum) return schema.enum.some((one: unknown) => isSame(one, value))
  const types: string[] = [schema.type].flat()
  if (schema.type && !types.some((type) => isOf(type, value))) return false
  if (typeof value === 'string') {
    const length = [...value].length
    const { minLength = 0, maxLength = Infinity, format } = schema
    return length >= minLength && length <= maxLength && (!format || FORMATS[format]!(value))
  }
  if (typeof value === 'number') {
    const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity } = schema
    return value >= minimum && value <= maximum && value > exclusiveMinimum
  }
  if (Array.isArray(value)) {
    const { minItems = 0, maxItems = Infinity, items = {} } = schema
    const fits = value.length >= minItems && value.length <= maxItems
    return fits && value.every((item) => isValid(items, item))
  }
  if (typeof value !== 'object' || value === null) return true
  return isValidObject(schema, value)
}

function isValidObject(schema: Schema, value: object): boolean {
  const { properties = {}, required = [], additionalProperties = {} } = schema
  if (!required.every((key: string) => Object.hasOwn(value, key))) return false
  return Object.entries(value).every(([key, inner]) => {
    if (Object.hasOwn(properties, key)) return isValid(properties[key], inner)
    return additionalProperties !== false && isValid(additionalProperties, inner)
  })
}

function isOf(type: string, value: unknown): boolean {
  if (type === 'null') return value === null
  if (type === 'array') return Array.isArray(value)
  if (type === 'integer') return Number.isInteger(value)
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value)
  return typeof value === type && (type !== 'number' || Number.isFinite(value))
}
