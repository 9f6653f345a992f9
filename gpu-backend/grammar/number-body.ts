import { decimalRange, integerRange } from './number-range.ts'
import { at, type Place, type Schema, SchemaError } from './schema-parts.ts'

/** EBNF of a number within its bounds. */
export function numberBody(type: 'number' | 'integer', schema: Schema, place: Place): string {
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
