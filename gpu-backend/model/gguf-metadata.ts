import type { GgufFile, GgufValue } from './gguf.ts'
import { ModelFileError } from './model-file-error.ts'

/** Throws {@link ModelFileError} where the key is missing or of another type; so do the three below. */
export function textAt(metadata: GgufFile['metadata'], key: string): string {
  const value = metadata.get(key)
  if (typeof value === 'string') return value
  throw new ModelFileError(`The metadata key "${key}" is missing or no text.`)
}

export function numberAt(metadata: GgufFile['metadata'], key: string, fallback?: number): number {
  const value = metadata.get(key) ?? fallback
  if (typeof value === 'number') return value
  throw new ModelFileError(`The metadata key "${key}" is missing or no number.`)
}

export function textsAt(metadata: GgufFile['metadata'], key: string): readonly string[] {
  const value = metadata.get(key)
  if (Array.isArray(value) && value.every((item: GgufValue) => typeof item === 'string')) {
    return value
  }
  throw new ModelFileError(`The metadata key "${key}" is missing or no list of texts.`)
}

/** A list of `length` numbers. */
export function numbersAt(
  metadata: GgufFile['metadata'],
  key: string,
  length: number,
): readonly number[] {
  const value = metadata.get(key)
  if (
    Array.isArray(value) &&
    value.length === length &&
    value.every((item: GgufValue) => typeof item === 'number')
  ) {
    return value
  }
  throw new ModelFileError(`The metadata key "${key}" is missing or no list of ${length} numbers.`)
}
