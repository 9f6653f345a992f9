import type { z } from 'zod'
import { ApiError } from '../errors.ts'

/** `value` as the schema gives it back; throws an ApiError that names the field at fault and what is allowed. */
export function parseRequest<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [first] = result.error.issues
  if (first === undefined) throw new Error('A zod error without an issue.', { cause: result.error })
  const issue = narrowIssue(first)
  const param = writePath(issue)
  throw new ApiError('invalid_request', {
    message: param === '' ? issue.message : `${param}: ${issue.message}`,
    ...(param !== '' && { param }),
  })
}

/** zod's, for a union that was given no sentence of its own. */
const UNION_MESSAGE = 'Invalid input'

/** Of a value that fits no member of such a union, what the member says that got furthest into it. */
function narrowIssue(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union' || issue.message !== UNION_MESSAGE) return issue
  const [deepest] = issue.errors
    .flatMap(([first]) => (first === undefined ? [] : [narrowIssue(first)]))
    .toSorted((a, b) => b.path.length - a.path.length)
  if (deepest === undefined || deepest.path.length === 0) return issue
  return { ...deepest, path: [...issue.path, ...deepest.path] }
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
