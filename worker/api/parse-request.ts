import { z } from 'zod'
import { ApiError } from '../errors.ts'

/** Marks a zod issue as something that is not offered, rather than a mistake. */
const UNSUPPORTED = { params: { code: 'unsupported_parameter' } } as const

/** Refuses a parameter unless it is absent, null or one of `harmless`: it asks for nothing. */
export function unsupportedUnless(
  harmless: readonly unknown[] = [],
  message = 'is not supported here',
) {
  return z
    .unknown()
    .refine((value) => value == null || harmless.includes(value), { message, ...UNSUPPORTED })
}

/** A `type` that must be one of those offered; others are refused as unsupported. */
export function supportedType<const T extends string>(...types: readonly [T, ...T[]]) {
  return z.string().refine((type): type is T => types.some((offered) => offered === type), {
    message: `must be ${types.join(' or ')}`,
    ...UNSUPPORTED,
  })
}

/** `value` as the schema gives it back; throws an ApiError that names the field at fault and what is allowed. */
export function parseRequest<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  if (issue === undefined) throw new Error('A zod error without an issue.', { cause: result.error })
  const param = writePath(issue)
  const isUnsupported = issue.code === 'custom' && issue.params?.code === UNSUPPORTED.params.code
  throw new ApiError(isUnsupported ? 'unsupported_parameter' : 'invalid_request', {
    message: param === '' ? issue.message : `${param}: ${issue.message}`,
    ...(param !== '' && { param }),
  })
}

/** As OpenAI spells it: `messages[0].content`. An unknown field is named itself. */
function writePath(issue: z.core.$ZodIssue): string {
  const path =
    issue.code === 'unrecognized_keys' ? [...issue.path, ...issue.keys.slice(0, 1)] : issue.path
  return path.reduce<string>((written, step) => {
    if (typeof step === 'number') return `${written}[${step}]`
    return written === '' ? String(step) : `${written}.${String(step)}`
  }, '')
}
