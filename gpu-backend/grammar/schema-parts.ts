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

export type Schema = Readonly<Record<string, unknown>>

export const TYPE_NAMES = [
  'object',
  'array',
  'string',
  'number',
  'integer',
  'boolean',
  'null',
] as const
export type TypeName = (typeof TYPE_NAMES)[number]

export interface Place {
  readonly path: string
  readonly depth: number
  /** Rules that are being written and could be entered again without a character in between. */
  readonly open: ReadonlySet<string>
}

export function resolve(document: unknown, ref: string, place: Place): unknown {
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

export function at(place: Place, step: string | number): Place {
  const path = typeof step === 'number' ? `${place.path}[${step}]` : `${place.path}.${step}`
  return { ...place, path: path.replace(/^\./, ''), depth: place.depth + 1 }
}

export function isObject(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function isOf(type: TypeName, value: unknown): boolean {
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
