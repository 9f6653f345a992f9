import {
  at,
  isObject,
  type Place,
  type Schema,
  SchemaError,
  TYPE_NAMES,
  type TypeName,
} from './schema-parts.ts'

/** Of `minLength`, `maxLength`, `minItems` and `maxItems`. */
const MAX_BOUND = 10_000

/** Keywords that promise nothing about the value. */
export const ANNOTATIONS = new Set(
  '$schema $id $comment discriminator $defs definitions title description default examples deprecated readOnly writeOnly'.split(
    ' ',
  ),
)
/** Keywords made of other schemas that are about the same value. */
const JOINTS: readonly string[] = ['$ref', 'anyOf', 'oneOf', 'allOf']
/** Keywords that say all of a value: of those on `type`, none may stand beside them. */
const VALUES: readonly string[] = ['enum', 'const']

const KEYWORDS_OF_TYPE: Readonly<Partial<Record<TypeName, readonly string[]>>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'format', 'pattern'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
}
const CONSTRAINTS = new Set(Object.values(KEYWORDS_OF_TYPE).flat())

/** Whether several schemas must hold together. */
export function isMany(schema: Schema): boolean {
  if (JOINTS.every((keyword) => schema[keyword] === undefined)) return false
  if (Array.isArray(schema.allOf) && schema.allOf.length > 1) return true
  return Object.keys(schema).filter((keyword) => !ANNOTATIONS.has(keyword)).length > 1
}

/** Whether schemas are merged to write it, or its options. */
export function mayCopyItself(schema: Schema): boolean {
  return schema.anyOf !== undefined || schema.oneOf !== undefined || isMany(schema)
}

export function readRef(ref: unknown, place: Place): string {
  if (typeof ref === 'string' && /^#(\/|$)/.test(ref)) return ref
  throw new SchemaError(place.path, 'must be a reference into the schema itself, as #/$defs/name')
}

export function checkKeywords(schema: Schema, place: Place): void {
  const whole = VALUES.find((keyword) => schema[keyword] !== undefined)
  for (const keyword of Object.keys(schema)) {
    if (keyword === 'type' || keyword === whole || ANNOTATIONS.has(keyword)) continue
    if (JOINTS.includes(keyword)) continue
    const { path } = at(place, keyword)
    if (!CONSTRAINTS.has(keyword) && !VALUES.includes(keyword)) {
      throw new SchemaError(path, `the keyword ${keyword} is not supported`)
    }
    if (whole !== undefined) {
      throw new SchemaError(path, `${keyword} is not supported beside ${whole}`)
    }
  }
}

/** Null: any type. Where `type` is absent, it is the one whose keywords are there. */
export function readTypes(schema: Schema, place: Place): readonly TypeName[] | null {
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
  return known
}

export function readRequired(
  schema: Schema,
  properties: Schema,
  place: Place,
): ReadonlySet<unknown> {
  const here = at(place, 'required')
  const required = schema.required ?? []
  if (!Array.isArray(required)) throw new SchemaError(here.path, 'must be a list of names')
  const unknown = required.find((name) => !Object.hasOwn(properties, String(name)))
  if (unknown === undefined) return new Set(required)
  throw new SchemaError(here.path, `names ${JSON.stringify(unknown)}, which is no property`)
}

export function readBounds(
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

export function readSchemas(schemas: unknown, place: Place): readonly unknown[] {
  if (Array.isArray(schemas) && schemas.length > 0) return schemas
  throw new SchemaError(place.path, 'must be a list of schemas')
}

export function readObject(value: unknown, place: Place): Schema {
  if (isObject(value)) return value
  throw new SchemaError(place.path, 'must be an object')
}
