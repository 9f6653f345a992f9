import { REQUEST_ID_HEADER, TENANT_HEADER } from '../../protocol/backend.ts'
import { ApiError } from '../errors.ts'
import { isJsonObject, parseJsonObject } from './answer-parts.ts'
import { authorize, type BackendAddress, locate, readUpstreamError } from './backend-client.ts'

/** On whose behalf a backend is asked about what accounts keep there. */
export interface TenantCaller {
  readonly requestId: string
  readonly accountId: string
  /** How long a backend may take to answer once it has all of the request, milliseconds. */
  readonly timeoutMs: number
}

/** What is sent: a body in its media type. */
export interface TenantBody {
  readonly contentType: string
  readonly body: ReadableStream<Uint8Array> | string
  /** Resolves when all of the body was sent. */
  readonly sent: Promise<void>
}

interface TenantCall extends Partial<TenantBody> {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
}

/** Throws `no_backend` and `deadline_exceeded`; any answer is one. */
export async function callForTenant(
  backend: BackendAddress,
  { requestId, accountId, timeoutMs }: TenantCaller,
  { method, path, contentType, body, sent = Promise.resolve() }: TenantCall,
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
  const call = () =>
    fetch(locate(backend, path), {
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
  try {
    // A kept connection may be one that the backend is closing, as after an upload that it
    // refused before its end: what only reads is asked again, once (RFC 9110, 9.2.2).
    return await call().catch((cause: unknown) => {
      if (method === 'GET' && !late.signal.aborted) return call()
      throw cause
    })
  } catch (cause) {
    throw new ApiError(late.signal.aborted ? 'deadline_exceeded' : 'no_backend', { cause })
  } finally {
    isOver = true
    clearTimeout(timer)
  }
}

/** The JSON of a backend's answer. Throws the ApiError that says why there is none. */
export async function readTenantAnswer(response: Response): Promise<unknown> {
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

/** Beside what blames the request: what a backend says of an adapter or a datanet. */
const PASSED_ON = ['adapter_in_use', 'adapter_unavailable', 'datanet_in_use'] as const
