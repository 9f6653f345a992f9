import { at, isObject, type Place, type Schema, SchemaError, TYPE_NAMES } from './schema-parts.ts'

/** What a value must be by each of several schemas at once, by keyword. */
const MERGES: Readonly<Record<string, (a: unknown, b: unknown) => unknown>> = {
  type: mergeTypes,
  required: (a, b) => (Array.isArray(a) && Array.isArray(b) ? [...new Set([...a, ...b])] : null),
  items: both,
  minimum: furthest(Math.max),
  exclusiveMinimum: furthest(Math.max),
  minLength: furthest(Math.max),
  minItems: furthest(Math.max),
  maximum: furthest(Math.min),
  exclusiveMaximum: furthest(Math.min),
  maxLength: furthest(Math.min),
  maxItems: furthest(Math.min),
}

/** Which values are left, for `const` and `enum`; what they may stand beside. */
const VALUES = ['const', 'enum', 'type']

/**
 * One schema for the values that are valid by both: exactly those, but that equal objects in `enum`
 * must have their names in the same order. Neither may have a `$ref` or a union.
 */
export function mergeSchemas(a: Schema, b: Schema, place: Place): Schema {
  const keywords = [...new Set([...Object.keys(a), ...Object.keys(b)])]
  if (keywords.some((keyword) => keyword === 'const' || keyword === 'enum')) {
    return mergeValues(a, b, keywords, place)
  }
  const isOfObjects = ['properties', 'additionalProperties'].some((one) => keywords.includes(one))
  return Object.fromEntries([
    ...keywords.map((keyword) => [keyword, mergeKeyword(keyword, a, b, place)]),
    ...(isOfObjects ? mergeProperties(a, b, place) : []),
  ])
}

function mergeKeyword(keyword: string, a: Schema, b: Schema, place: Place): unknown {
  const [left, right] = [a[keyword], b[keyword]]
  if (left === undefined || right === undefined) return left ?? right
  if (left === right || keyword === 'properties' || keyword === 'additionalProperties') return left
  const merged = MERGES[keyword]?.(left, right) ?? null
  if (merged !== null) return merged
  throw new SchemaError(at(place, keyword).path, 'is not supported twice with these values')
}

function mergeValues(a: Schema, b: Schema, keywords: readonly string[], place: Place): Schema {
  const other = keywords.find((keyword) => !VALUES.includes(keyword))
  if (other !== undefined) {
    throw new SchemaError(at(place, other).path, `${other} is not supported beside const or enum`)
  }
  const [left, right] = [a, b].map((schema) => {
    const values = schema.const === undefined ? schema.enum : [schema.const]
    if (values === undefined || Array.isArray(values)) return values
    throw new SchemaError(at(place, 'enum').path, 'must be a list of values')
  })
  const known = new Set(right?.map((value) => JSON.stringify(value)))
  const values = left && right ? left.filter((v) => known.has(JSON.stringify(v))) : (left ?? right)
  if (values?.length === 0) {
    throw new SchemaError(at(place, 'enum').path, 'has no value that all parts allow')
  }
  const type = mergeKeyword('type', a, b, place)
  return type === undefined ? { enum: values } : { type, enum: values }
}

/** A property that only one of them names is, for the other, an additional one. */
function mergeProperties(a: Schema, b: Schema, place: Place): readonly [string, unknown][] {
  const [left, right] = [a, b].map(({ properties = {}, additionalProperties: rest = true }) => {
    if (!isObject(properties)) {
      throw new SchemaError(at(place, 'properties').path, 'must be an object')
    }
    return {
      rest,
      of: (name: string) => (Object.hasOwn(properties, name) ? properties[name] : rest),
    }
  })
  const names = [a, b].flatMap(({ properties }) => Object.keys(properties ?? {}))
  const properties = [...new Set(names)].flatMap((name): [string, unknown][] => {
    const merged = both(left?.of(name), right?.of(name))
    return merged === false ? [] : [[name, merged]]
  })
  return [
    ['properties', Object.fromEntries(properties)],
    ['additionalProperties', both(left?.rest, right?.rest)],
  ]
}

function both(a: unknown, b: unknown): unknown {
  if (a === false || b === false) return false
  if (a === true || a === b) return b
  return b === true ? a : { allOf: [a, b] }
}

function mergeTypes(a: unknown, b: unknown): unknown {
  const [left, right] = [a, b].map((type) => {
    const types: readonly unknown[] = Array.isArray(type) ? type : [type]
    return new Set(types.includes('number') ? [...types, 'integer'] : types)
  })
  const types = TYPE_NAMES.filter((type) => left?.has(type) && right?.has(type))
  // An integer is a number already.
  const needed = types.filter((type) => type !== 'integer' || !types.includes('number'))
  return needed.length === 0 ? null : needed
}

function furthest(pick: (a: number, b: number) => number) {
  return (a: unknown, b: unknown) =>
    typeof a === 'number' && typeof b === 'number' ? pick(a, b) : null
}
