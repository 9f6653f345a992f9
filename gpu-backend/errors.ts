/** Every way a request to the backend can end badly. One table, one handler (api/app.ts). */
export type BackendErrorCode =
  | 'invalid_json'
  | 'invalid_request'
  | 'context_length_exceeded'
  | 'unsupported_parameter'
  | 'invalid_api_key'
  | 'model_not_found'
  | 'not_found'
  | 'method_not_allowed'
  | 'adapter_in_use'
  | 'request_too_large'
  | 'adapter_rejected'
  | 'datanet_rejected'
  | 'datanet_in_use'
  | 'overloaded'
  | 'adapter_unavailable'
  | 'internal_error'

interface BackendErrorRow {
  readonly status: 400 | 401 | 404 | 405 | 409 | 413 | 422 | 429 | 500 | 503
  /** OpenAI's `error.type`. */
  readonly type: string
}

export const BACKEND_ERRORS = {
  invalid_json: { status: 400, type: 'invalid_request_error' },
  invalid_request: { status: 400, type: 'invalid_request_error' },
  context_length_exceeded: { status: 400, type: 'invalid_request_error' },
  unsupported_parameter: { status: 400, type: 'invalid_request_error' },
  invalid_api_key: { status: 401, type: 'authentication_error' },
  model_not_found: { status: 404, type: 'invalid_request_error' },
  not_found: { status: 404, type: 'invalid_request_error' },
  method_not_allowed: { status: 405, type: 'invalid_request_error' },
  adapter_in_use: { status: 409, type: 'invalid_request_error' },
  request_too_large: { status: 413, type: 'invalid_request_error' },
  adapter_rejected: { status: 422, type: 'invalid_request_error' },
  datanet_rejected: { status: 422, type: 'invalid_request_error' },
  datanet_in_use: { status: 409, type: 'invalid_request_error' },
  overloaded: { status: 429, type: 'overloaded_error' },
  adapter_unavailable: { status: 503, type: 'server_error' },
  internal_error: { status: 500, type: 'server_error' },
} as const satisfies Record<BackendErrorCode, BackendErrorRow>

interface BackendErrorDetail {
  readonly param?: string
  readonly retryAfterMs?: number
  readonly cause?: unknown
}

/** The one error that ends a backend request; `message` is for the caller. */
export class BackendError extends Error {
  readonly code: BackendErrorCode
  readonly param: string | null
  readonly retryAfterMs: number | null

  constructor(code: BackendErrorCode, message: string, detail: BackendErrorDetail = {}) {
    super(message, { cause: detail.cause })
    this.name = 'BackendError'
    this.code = code
    this.param = detail.param ?? null
    this.retryAfterMs = detail.retryAfterMs ?? null
  }
}
