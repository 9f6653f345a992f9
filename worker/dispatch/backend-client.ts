import {
  type BackendModel,
  backendModelsSchema,
  REQUEST_ID_HEADER,
  TENANT_HEADER,
  TIER_HEADER,
  type Tier,
} from '../../protocol/backend.ts'
import type { Config } from '../env.ts'
import { ApiError, ERRORS, type ErrorCode } from '../errors.ts'
import type { Endpoint } from '../ledger/usage-record.ts'
import { isJsonObject, parseJsonObject } from './answer-parts.ts'
import type { GenerationRequest } from './generation-request.ts'

export type BackendAddress = Config['BACKENDS'][number]

export interface GenerationCall {
  readonly requestId: string
  readonly accountId: string
  readonly tier: Tier
  /** W3C Trace Context. */
  readonly traceparent: string
  readonly endpoint: GenerationRequest['endpoint']
  readonly body: Uint8Array | string
  readonly signal: AbortSignal
}

const PATHS = {
  'chat.completions': '/v1/chat/completions',
  completions: '/v1/completions',
  responses: '/v1/chat/completions',
  embeddings: '/v1/embeddings',
  tokenize: '/tokenize', // where vLLM has them
  detokenize: '/detokenize',
} as const satisfies Record<Endpoint, string>

/** How long a backend may take to list its models. */
const LOOKUP_TIMEOUT_MS = 2_000

/**
 * Sends a request for text. Resolves with a 2xx response whose body has not been read; throws an
 * ApiError that says what the caller may know. When the signal ends the call, what is thrown is
 * of no meaning: whoever aborted knows why.
 */
export async function sendGeneration(
  backend: BackendAddress,
  call: GenerationCall,
): Promise<Response> {
  let response: Response
  try {
    response = await fetch(locate(backend, PATHS[call.endpoint]), {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        [REQUEST_ID_HEADER]: call.requestId,
        [TENANT_HEADER]: call.accountId,
        [TIER_HEADER]: call.tier,
        traceparent: call.traceparent,
        ...authorize(backend),
      },
      body: call.body,
      redirect: 'manual',
      signal: call.signal,
    })
  } catch (error) {
    throw new ApiError('no_backend', { cause: error, retryAfterMs: DEFAULT_RETRY_AFTER_MS })
  }
  if (response.ok) return response
  const error = await readUpstreamError(response)
  throw lacksOperation(call, response, error) ? refuseOperation(call) : error
}

/** Not every server of OpenAI's API tokenizes. */
function lacksOperation(
  { endpoint }: GenerationCall,
  { status }: Response,
  error: ApiError,
): boolean {
  const isExtension = endpoint === 'tokenize' || endpoint === 'detokenize'
  return isExtension && (status === 404 || status === 405) && error.param !== 'model'
}

function refuseOperation({ endpoint }: GenerationCall): ApiError {
  const message = `The backend of this model does not ${endpoint}.`
  return new ApiError('unsupported_parameter', { message, param: 'model' })
}

/** What a backend lists as its models. Throws when it does not answer, or not as agreed. */
export async function fetchModels(backend: BackendAddress): Promise<readonly BackendModel[]> {
  const response = await fetch(locate(backend, '/v1/models'), {
    headers: authorize(backend),
    redirect: 'manual',
    signal: AbortSignal.timeout(LOOKUP_TIMEOUT_MS),
  })
  if (!response.ok) throw new Error(`The models list came with status ${response.status}.`)
  return backendModelsSchema.parse(await response.json()).data
}

export function locate(backend: BackendAddress, path: string): string {
  return `${backend.url.replace(/\/$/, '')}${path}`
}

export function authorize(backend: BackendAddress): Record<string, string> {
  return backend.token === undefined ? {} : { authorization: `Bearer ${backend.token}` }
}

const VALIDATION_CODES: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_request',
  404: 'model_not_found',
  413: 'request_too_large',
  422: 'invalid_request',
}

const MAX_ERROR_CHARACTERS = 64_000

/** A backend's refusal as our caller may see it: its findings on the request are passed on, its own troubles are not. */
export async function readUpstreamError(response: Response): Promise<ApiError> {
  const cause = new Error(`The backend answered ${response.status}.`)
  const text = await response.text().catch(() => '')
  const validationCode = VALIDATION_CODES[response.status]
  if (validationCode !== undefined) {
    const body = parseJsonObject(text.slice(0, MAX_ERROR_CHARACTERS))
    const error = isJsonObject(body?.error) ? body.error : {}
    return new ApiError(ownCode(error.code) ?? validationCode, {
      cause,
      ...(typeof error.message === 'string' && { message: error.message }),
      ...(typeof error.param === 'string' && { param: error.param }),
    })
  }
  if (response.status === 429) {
    return new ApiError('overloaded', { cause, retryAfterMs: readRetryAfterMs(response.headers) })
  }
  if (response.status === 503) {
    return new ApiError('no_backend', { cause, retryAfterMs: readRetryAfterMs(response.headers) })
  }
  return new ApiError('upstream_error', { cause })
}

/** The error code if it is one of ours that blames the request. */
function ownCode(code: unknown): ErrorCode | null {
  const known = Object.keys(ERRORS).find((candidate) => candidate === code)
  if (known === undefined) return null
  const ownCode = known as ErrorCode // a key of ERRORS
  const isOfRequest =
    Object.values(VALIDATION_CODES).includes(ownCode) || [400, 422].includes(ERRORS[ownCode].status)
  return isOfRequest ? ownCode : null
}

const DEFAULT_RETRY_AFTER_MS = 1_000

function readRetryAfterMs(headers: Headers): number {
  const exactMs = Number(headers.get('retry-after-ms') ?? Number.NaN)
  if (exactMs >= 0) return Math.ceil(exactMs)
  const seconds = Number(headers.get('retry-after') ?? Number.NaN)
  return seconds >= 0 ? Math.ceil(seconds * 1_000) : DEFAULT_RETRY_AFTER_MS
}
