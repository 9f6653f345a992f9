import type { z } from 'zod'
import { BackendError, type BackendErrorCode } from '../errors.ts'
import type { BackendContext } from './services.ts'

/** Reads, parses and validates a JSON body, counting its bytes while they come. */
export async function readJsonBody<Schema extends z.ZodType>(
  c: BackendContext,
  schema: Schema,
  maxBodyBytes: number,
): Promise<z.output<Schema>> {
  const text = await readText(c.req.raw, maxBodyBytes)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw refuse('invalid_json', 'The body is not valid JSON.', error)
  }
  return parseFields(schema, value)
}

/** The value as the schema has it. Throws `invalid_request`, naming the field at fault. */
export function parseFields<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
): z.output<Schema> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw toRequestError(parsed.error)
}

/** Marks a zod issue as something that this server does not do, rather than a mistake. */
export const UNSUPPORTED = { params: { code: 'unsupported_parameter' } } as const

async function readText(req: Request, maxBodyBytes: number): Promise<string> {
  const tooLarge = () =>
    new BackendError('request_too_large', `The body is larger than ${maxBodyBytes} bytes.`)
  if (Number(req.headers.get('content-length') ?? 0) > maxBodyBytes) throw tooLarge()
  const chunks: Uint8Array[] = []
  let sizeBytes = 0
  try {
    for await (const chunk of req.body ?? []) {
      sizeBytes += chunk.byteLength
      if (sizeBytes > maxBodyBytes) break
      chunks.push(chunk)
    }
  } catch (error) {
    throw refuse('invalid_request', 'The body ended early.', error)
  }
  if (sizeBytes > maxBodyBytes) throw tooLarge()
  return new TextDecoder().decode(Buffer.concat(chunks))
}

function refuse(code: BackendErrorCode, message: string, cause: unknown): BackendError {
  return new BackendError(code, message, { cause })
}

/** The first issue, with its path as OpenAI spells it: `messages[0].content`. */
function toRequestError(error: z.ZodError): BackendError {
  const [issue] = error.issues
  if (!issue) throw new Error('a zod error without an issue', { cause: error })
  const param = issue.path.reduce<string>((path, step) => {
    if (typeof step === 'number') return `${path}[${step}]`
    return path === '' ? String(step) : `${path}.${String(step)}`
  }, '')
  const isUnsupported = issue.code === 'custom' && issue.params?.code === UNSUPPORTED.params.code
  return new BackendError(
    isUnsupported ? 'unsupported_parameter' : 'invalid_request',
    param === '' ? `The body is not valid: ${issue.message}` : `'${param}': ${issue.message}`,
    { ...(param === '' ? {} : { param }) },
  )
}
