import { isJsonObject, type JsonObject } from '../dispatch/answer-parts.ts'

/** One field of a schema, for a table. */
export interface FieldDescription {
  /** `messages[].role`. */
  readonly path: string
  /** In words: `integer, 1 to 128`. */
  readonly type: string
  readonly isRequired: boolean
  readonly description: string
}

type Resolve = (schema: JsonObject) => JsonObject

/** Fields deeper than this are named by their type alone. */
const MAX_DEPTH = 3

/** Looks a reference up in a document's components; other schemas are themselves. */
export function createResolver(document: JsonObject): Resolve {
  const components = isJsonObject(document.components) ? document.components : {}
  const schemas = isJsonObject(components.schemas) ? components.schemas : {}
  return (schema) => {
    const name = typeof schema.$ref === 'string' ? schema.$ref.split('/').at(-1) : undefined
    const found = name === undefined ? schema : schemas[name]
    return isJsonObject(found) ? found : {}
  }
}

/** The fields of an object, a list or a union of them, those of inner objects after their own. */
export function listFields(schema: JsonObject, resolve: Resolve): readonly FieldDescription[] {
  const byPath = new Map<string, FieldDescription>()
  const visit = (part: JsonObject, path: string, depth: number): void => {
    const resolved = resolve(part)
    for (const member of listMembers(resolved)) visit(member, path, depth)
    if (isJsonObject(resolved.items)) visit(resolved.items, `${path}[]`, depth)
    if (!isJsonObject(resolved.properties) || depth === MAX_DEPTH) return
    const required = Array.isArray(resolved.required) ? resolved.required : []
    for (const [name, field] of Object.entries(resolved.properties)) {
      if (!isJsonObject(field)) continue
      const fieldPath = path === '' ? name : `${path}.${name}`
      if (!byPath.has(fieldPath)) {
        const description = field.description ?? resolve(field).description
        byPath.set(fieldPath, {
          path: fieldPath,
          type: describeType(field, resolve),
          isRequired: required.includes(name),
          description: typeof description === 'string' ? description : '',
        })
      }
      visit(field, fieldPath, depth + 1)
    }
  }
  visit(schema, '', 0)
  return [...byPath.values()]
}

function listMembers(schema: JsonObject): readonly JsonObject[] {
  return [schema.anyOf, schema.oneOf, schema.allOf].flatMap((members) =>
    Array.isArray(members) ? members.filter(isJsonObject) : [],
  )
}

/** A schema's type in words. */
export function describeType(schema: JsonObject, resolve: Resolve): string {
  const resolved = resolve(schema)
  if (resolved.const !== undefined) return JSON.stringify(resolved.const)
  if (Array.isArray(resolved.enum))
    return resolved.enum.map((value) => JSON.stringify(value)).join(' | ')
  const members = listMembers(resolved)
  if (members.length > 0)
    return [...new Set(members.map((member) => describeType(member, resolve)))].join(' or ')
  if (resolved.type === 'array') {
    const items = isJsonObject(resolved.items) ? describeType(resolved.items, resolve) : 'anything'
    return `list of ${items}`
  }
  const type = [resolved.type].flat().filter((name) => typeof name === 'string')
  return `${type.join(' or ') || 'anything'}${describeBounds(resolved)}`
}

function describeBounds({ minimum, maximum, maxLength }: JsonObject): string {
  if (maximum !== undefined) return `, ${minimum ?? 'up'} to ${maximum}`
  if (minimum !== undefined) return `, at least ${minimum}`
  return maxLength === undefined ? '' : `, at most ${maxLength} characters`
}
