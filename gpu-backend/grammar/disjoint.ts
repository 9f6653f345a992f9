import { isObject, isOf, resolve, type Schema, TYPE_NAMES, type TypeName } from './schema-parts.ts'

/** References that are followed, and properties inside properties that are compared. */
const MAX_DEPTH = 4

/**
 * Whether no value can be valid by both schemas, as far as their types, constants and required
 * properties say; false where that is not certain.
 */
export function areDisjoint(a: unknown, b: unknown, document: unknown, depth = 0): boolean {
  const [left, right] = [a, b].map((schema) => follow(schema, document))
  if (!left || !right || depth > MAX_DEPTH) return false
  const [leftValues, rightValues] = [valuesOf(left), valuesOf(right)]
  const values = [...(leftValues ?? []), ...(rightValues ?? [])]
  // An object may be written in several ways.
  const areSimple = values.every((value) => typeof value !== 'object' || value === null)
  if (leftValues && rightValues && areSimple) {
    return rightValues.every((value) => !leftValues.includes(value))
  }
  const types = typesOf(left).filter((type) => typesOf(right).includes(type))
  if (types.length === 0) return true
  if (types.join() !== 'object') return false
  const required = (schema: Schema) => (Array.isArray(schema.required) ? schema.required : [])
  return [...required(left), ...required(right)].some((name) => {
    const inLeft = propertyOf(left, String(name))
    const inRight = propertyOf(right, String(name))
    const isShared = inLeft !== undefined && inRight !== undefined
    return isShared && areDisjoint(inLeft, inRight, document, depth + 1)
  })
}

/** The schema that a reference, or an `allOf` of one, stands for; null where it is something else. */
function follow(schema: unknown, document: unknown): Schema | null {
  let target = schema
  for (let count = 0; count <= MAX_DEPTH && isObject(target); count++) {
    const all = target.allOf
    if (typeof target.$ref === 'string' && target.$ref.startsWith('#')) {
      target = resolve(document, target.$ref, { path: target.$ref, depth: 0, open: new Set() })
    } else if (Array.isArray(all) && all.length === 1) {
      target = all[0]
    } else {
      return target
    }
  }
  return null
}

function valuesOf(schema: Schema): readonly unknown[] | null {
  if (schema.const !== undefined) return [schema.const]
  return Array.isArray(schema.enum) ? schema.enum : null
}

/** A number counts as what it may be: an integer too. */
function typesOf(schema: Schema): readonly TypeName[] {
  const values = valuesOf(schema)
  if (values) return TYPE_NAMES.filter((type) => values.some((value) => isOf(type, value)))
  if (schema.type === undefined) return TYPE_NAMES
  const types: readonly unknown[] = Array.isArray(schema.type) ? schema.type : [schema.type]
  const isNumber = types.includes('number')
  return TYPE_NAMES.filter((type) => types.includes(type) || (type === 'integer' && isNumber))
}

function propertyOf(schema: Schema, name: string): unknown {
  const { properties } = schema
  return isObject(properties) && Object.hasOwn(properties, name) ? properties[name] : undefined
}
