import {
  type AdapterListing,
  adapterListingSchema,
  adapterListSchema,
} from '../../protocol/adapter-listing.ts'
import { REQUEST_ID_HEADER, TENANT_HEADER } from '../../protocol/backend.ts'
import { ApiError } from '../errors.ts'
import { isJsonObject, parseJsonObject } from './answer-parts.ts'
import { authorize, type BackendAddress, locate, readUpstreamError } from './backend-client.ts'

/** Whose adapters a call is about. */
export interface AdapterCaller {
  readonly requestId: string
  readonly accountId: string
  /** How long a backend may take to answer once it has all of the request, milliseconds. */
  readonly timeoutMs: number
}

/** What is registered: a body in its media type. */
export interface AdapterBody {
  readonly contentType: string
  readonly body: ReadableStream<Uint8Array> | string
  /** Resolves when all of the body was sent. */
  readonly sent: Promise<void>
}

interface Call extends Partial<AdapterBody> {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
}

/** The account's adapters on a backend; null where the server knows no adapters. */
export async function listBackendAdapters(
  backend: BackendAddress,
  caller: AdapterCaller,
): Promise<readonly AdapterListing[] | null> {
  const response = await send(backend, caller, { method: 'GET', path: '/v1/adapters' })
  if (response.status === 404 || response.status === 405) return null
  return adapterListSchema.parse(await readAnswer(response)).data
}

/** Registers an adapter of the account's on a backend. Throws the ApiError that says why it was not. */
export async function registerBackendAdapter(
  backend: BackendAddress,
  caller: AdapterCaller,
  body: AdapterBody,
): Promise<AdapterListing> {
  const call = { method: 'POST', path: '/v1/adapters', ...body } as const
  return adapterListingSchema.parse(await readAnswer(await send(backend, caller, call)))
}

/** False: it was not there. Throws `adapter_in_use` while requests run on it; it goes when they end. */
export async function deleteBackendAdapter(
  backend: BackendAddress,
  caller: AdapterCaller,
  id: string,
): Promise<boolean> {
  const path = `/v1/adapters/${encodeURIComponent(id)}`
  const response = await send(backend, caller, { method: 'DELETE', path }).catch((error) => {
    if (error instanceof ApiError && error.code === 'deadline_exceeded')
      throw new ApiError('adapter_in_use', { cause: error, retryAfterMs: IN_USE_RETRY_AFTER_MS })
    throw error
  })
  if (response.status === 404) return false
  await readAnswer(response)
  return true
}

const IN_USE_RETRY_AFTER_MS = 5_000

async function send(
  backend: BackendAddress,
  { requestId, accountId, timeoutMs }: AdapterCaller,
  { method, path, contentType, body, sent = Promise.resolve() }: Call,
): Promise<Response> {
  const late = new AbortController()
  let timer: ReturnType<typeof setTimeout> | undefined
  const startTimer = () => {
    timer = setTimeout(() => late.abort(), timeoutMs)
  }
  let isOver = false
  sent.then(
    () => isOver || startTimer(),
    () => late.abort(),
  )
  try {
    return await fetch(locate(backend, path), {
      method,
      headers: {
        [REQUEST_ID_HEADER]: requestId,
        [TENANT_HEADER]: accountId,
        ...(contentType !== undefined && { 'content-type': contentType }),
        ...authorize(backend),
      },
      ...(body !== undefined && { body }),
      redirect: 'manual',
      signal: late.signal,
    })
  } catch (cause) {
    throw new ApiError(late.signal.aborted ? 'deadline_exceeded' : 'no_backend', { cause })
  } finally {
    isOver = true
    clearTimeout(timer)
  }
}

async function readAnswer(response: Response): Promise<unknown> {
  if (response.ok) return response.json()
  if (response.status === 409 || response.status === 503) {
    const { error } = parseJsonObject(await response.clone().text()) ?? {}
    const { code, message } = isJsonObject(error) ? error : {}
    const known = PASSED_ON.find((candidate) => candidate === code)
    if (known !== undefined)
      throw new ApiError(known, typeof message === 'string' ? { message } : {})
  }
  throw await readUpstreamError(response)
}

/** Beside what blames the request: what a backend says of an adapter. */
const PASSED_ON = ['adapter_in_use', 'adapter_unavailable'] as const
