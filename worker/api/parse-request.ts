import type { z } from 'zod'
import { ApiError } from '../errors.ts'

/** `value` as the schema gives it back; throws an ApiError that names the field at fault and what is allowed. */
export function parseRequest<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  const param = issue?.path.map(String).join('.') ?? ''
  const message = issue === undefined ? 'The request is not valid.' : issue.message
  throw new ApiError('invalid_request', {
    message: param === '' ? message : `${param}: ${message}`,
    ...(param !== '' && { param }),
  })
}
