/** Every way a request can end badly, as the caller sees it. One table, one handler (app.ts). */
export type ErrorCode =
  | 'invalid_json'
  | 'invalid_request'
  | 'context_length_exceeded'
  | 'unsupported_parameter'
  | 'invalid_api_key'
  | 'budget_exceeded'
  | 'model_not_allowed'
  | 'insufficient_scope'
  | 'tier_not_allowed'
  | 'model_not_found'
  | 'not_found'
  | 'adapter_rejected'
  | 'adapter_in_use'
  | 'adapter_unavailable'
  | 'datanet_rejected'
  | 'datanet_in_use'
  | 'method_not_allowed'
  | 'request_timeout'
  | 'idempotency_conflict'
  | 'idempotency_in_flight'
  | 'request_too_large'
  | 'unsupported_media_type'
  | 'rate_limit_exceeded'
  | 'concurrency_exceeded'
  | 'overloaded'
  | 'internal_error'
  | 'upstream_error'
  | 'no_backend'
  | 'ledger_unavailable'
  | 'deadline_exceeded'

interface ErrorRow {
  readonly status:
    | 400
    | 401
    | 402
    | 403
    | 404
    | 405
    | 408
    | 409
    | 413
    | 415
    | 422
    | 429
    | 500
    | 502
    | 503
    | 504
  /** OpenAI's `error.type`. */
  readonly type: string
  /** What the caller reads when the thrower gives no sentence of its own. */
  readonly message: string
}

export const ERRORS = {
  invalid_json: {
    status: 400,
    type: 'invalid_request_error',
    message: 'The body is not valid JSON.',
  },
  invalid_request: {
    status: 400,
    type: 'invalid_request_error',
    message: 'The request is not valid.',
  },
  context_length_exceeded: {
    status: 400,
    type: 'invalid_request_error',
    message: "The prompt and the answer asked for do not fit the model's context.",
  },
  unsupported_parameter: {
    status: 400,
    type: 'invalid_request_error',
    message: 'The model does not support this parameter.',
  },
  invalid_api_key: {
    status: 401,
    type: 'authentication_error',
    message: 'The API key is missing or not valid.',
  },
  budget_exceeded: { status: 402, type: 'insufficient_quota', message: 'The budget is used up.' },
  model_not_allowed: {
    status: 403,
    type: 'permission_error',
    message: 'This key may not use the model.',
  },
  insufficient_scope: {
    status: 403,
    type: 'permission_error',
    message: 'This key may not do that.',
  },
  tier_not_allowed: {
    status: 403,
    type: 'permission_error',
    message: 'This key may not be served that soon.',
  },
  model_not_found: {
    status: 404,
    type: 'invalid_request_error',
    message: 'The model does not exist.',
  },
  not_found: { status: 404, type: 'invalid_request_error', message: 'There is nothing here.' },
  adapter_rejected: {
    status: 422,
    type: 'invalid_request_error',
    message: 'The adapters cannot be used.',
  },
  adapter_in_use: {
    status: 409,
    type: 'invalid_request_error',
    message: 'Requests still run on the adapter. It takes no new ones, and is gone when they end.',
  },
  datanet_rejected: {
    status: 422,
    type: 'invalid_request_error',
    message: 'The datanet cannot be used.',
  },
  datanet_in_use: {
    status: 409,
    type: 'invalid_request_error',
    message: 'Adapters name the datanet. Delete them first.',
  },
  adapter_unavailable: {
    status: 503,
    type: 'server_error',
    message: 'The adapter cannot be fetched right now.',
  },
  method_not_allowed: {
    status: 405,
    type: 'invalid_request_error',
    message: 'This endpoint does not answer this method.',
  },
  request_timeout: {
    status: 408,
    type: 'invalid_request_error',
    message: 'The body took too long to arrive.',
  },
  idempotency_conflict: {
    status: 409,
    type: 'invalid_request_error',
    message: 'The Idempotency-Key was used for another request.',
  },
  idempotency_in_flight: {
    status: 409,
    type: 'invalid_request_error',
    message: 'The first request with this Idempotency-Key still runs. Try again shortly.',
  },
  request_too_large: {
    status: 413,
    type: 'invalid_request_error',
    message: 'The body is too large.',
  },
  unsupported_media_type: {
    status: 415,
    type: 'invalid_request_error',
    message: 'Send the body as application/json.',
  },
  rate_limit_exceeded: {
    status: 429,
    type: 'rate_limit_error',
    message: 'Too many requests. Try again shortly.',
  },
  concurrency_exceeded: {
    status: 429,
    type: 'rate_limit_error',
    message: 'Too many requests at the same time.',
  },
  overloaded: {
    status: 429,
    type: 'overloaded_error',
    message: 'All compute is busy and the queue is full. Try again shortly.',
  },
  internal_error: {
    status: 500,
    type: 'server_error',
    message: 'Something went wrong on our side. The request id names it.',
  },
  upstream_error: {
    status: 502,
    type: 'server_error',
    message: 'The model backend failed. Nothing was billed.',
  },
  no_backend: {
    status: 503,
    type: 'server_error',
    message: 'No model backend is available right now.',
  },
  ledger_unavailable: {
    status: 503,
    type: 'server_error',
    message: 'The usage ledger cannot be read right now. Requests are served and recorded.',
  },
  deadline_exceeded: {
    status: 504,
    type: 'server_error',
    message: 'The model backend did not answer in time. Nothing was billed.',
  },
} as const satisfies Record<ErrorCode, ErrorRow>

interface ErrorDetail {
  /** The caller's sentence; the table's when absent. */
  readonly message?: string
  /** The request field at fault, as OpenAI's `error.param`. */
  readonly param?: string
  /** When a retry can succeed; sent as `retry-after` and `retry-after-ms`. */
  readonly retryAfterMs?: number
  /** Goes to the log, never to the caller. */
  readonly cause?: unknown
}

/** The one error that ends a request. */
export class ApiError extends Error {
  readonly code: ErrorCode
  readonly param: string | null
  readonly retryAfterMs: number | null

  constructor(code: ErrorCode, detail: ErrorDetail = {}) {
    super(detail.message ?? ERRORS[code].message, { cause: detail.cause })
    this.name = 'ApiError'
    this.code = code
    this.param = detail.param ?? null
    this.retryAfterMs = detail.retryAfterMs ?? null
  }
}

/** The JSON that tells a caller of an error, as OpenAI words it. */
export function composeErrorBody(error: ApiError): {
  readonly error: {
    readonly message: string
    readonly type: string
    readonly param: string | null
    readonly code: ErrorCode
  }
} {
  const { message, param, code } = error
  return { error: { message, type: ERRORS[code].type, param, code } }
}
