import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { z } from 'zod'
import { ModelFileError } from './model-file-error.ts'

/** The parsed file; null when it is optional and missing. Rejects with {@link ModelFileError}; so do the two below. */
export async function readJson(dir: string, fileName: string, options?: { optional: boolean }) {
  const text = await readText(dir, fileName, options)
  if (text === null) return null
  try {
    const value: unknown = JSON.parse(text)
    return value
  } catch (error) {
    throw new ModelFileError(`${fileName} is not valid JSON.`, { cause: error })
  }
}

/** The file's text; null when it is optional and missing. */
export async function readText(
  dir: string,
  fileName: string,
  { optional }: { optional: boolean } = { optional: false },
): Promise<string | null> {
  try {
    return await readFile(join(dir, fileName), 'utf8')
  } catch (error) {
    // `readFile` rejects with system errors.
    if (optional && (error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new ModelFileError(`${fileName} is missing or cannot be read.`, { cause: error })
  }
}

/** The file's bytes; null when it is missing. */
export async function readBytes(dir: string, fileName: string): Promise<Buffer | null> {
  try {
    return await readFile(join(dir, fileName))
  } catch (error) {
    // `readFile` rejects with system errors.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new ModelFileError(`${fileName} cannot be read.`, { cause: error })
  }
}

/** The value as the schema has it, or an error that names the file and the field. */
export function parseFields<T>(schema: z.ZodType<T>, value: unknown, fileName: string): T {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new ModelFileError(`${fileName}: "${issue?.path.join('.')}": ${issue?.message}.`)
}
