import { z } from 'zod'
import { ERRORS, type ErrorCode } from '../errors.ts'
import { type Operation, TAGS } from './operation.ts'

/** JSON, of which the document is made. */
export type Json = { readonly [name: string]: unknown }

/** What any operation can end with, … */
const COMMON: readonly ErrorCode[] = ['internal_error']
/** … one that wants a key, … */
const AUTHENTICATED: readonly ErrorCode[] = ['invalid_api_key']
/** … one that wants an API key, … */
const RATIONED: readonly ErrorCode[] = ['rate_limit_exceeded']
/** … one that takes a body, … */
const WITH_BODY: readonly ErrorCode[] = [
  'invalid_json',
  'invalid_request',
  'request_too_large',
  'unsupported_media_type',
]
/** … one that is admitted, metered and sent to a backend, … */
const METERED: readonly ErrorCode[] = [
  'context_length_exceeded',
  'unsupported_parameter',
  'budget_exceeded',
  'model_not_allowed',
  'insufficient_scope',
  'tier_not_allowed',
  'model_not_found',
  'concurrency_exceeded',
  'overloaded',
  'upstream_error',
  'no_backend',
  'deadline_exceeded',
]
/** … and one that can be sent again. */
const IDEMPOTENT: readonly ErrorCode[] = ['idempotency_conflict', 'idempotency_in_flight']

/** The OpenAPI 3.1 document of some operations. */
export function composeOpenApiDocument(operations: readonly Operation[]): Json {
  const schemas: Record<string, Json> = { Error: composeErrorSchema() }
  const paths: Record<string, Record<string, Json>> = {}
  for (const operation of operations) {
    const path = operation.path.replace(/:(\w+)(?:\{[^}]*\})?/g, '{$1}')
    paths[path] ??= {}
    paths[path][operation.method.toLowerCase()] = composeOperation(operation, schemas)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Tallygate',
      version: '1',
      description:
        'An OpenAI-compatible gateway with exact metering, attribution and proofs. Any OpenAI SDK works with another base URL and key.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
    paths,
    components: {
      schemas,
      headers: HEADERS,
      securitySchemes: {
        apiKey: { type: 'http', scheme: 'bearer', description: 'An API key, `tg_…`.' },
        adminKey: { type: 'http', scheme: 'bearer', description: 'The operator’s key.' },
      },
    },
  }
}

function composeOperation(operation: Operation, schemas: Record<string, Json>): Json {
  const { id, tag, summary, description, key, body, form, answer } = operation
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description !== undefined && { description }),
    security: key === null ? [] : [{ [`${key}Key`]: [] }],
    ...composeParameters(operation),
    ...((body ?? form) !== undefined && {
      requestBody: {
        required: true,
        content: {
          ...(body !== undefined && {
            'application/json': { schema: composeSchema(body, schemas) },
          }),
          ...(form !== undefined && {
            'multipart/form-data': { schema: composeSchema(form, schemas) },
          }),
        },
      },
    }),
    responses: {
      [answer.status]: {
        description: answer.description,
        headers: refer('headers', [
          'x-request-id',
          'openai-processing-ms',
          ...(answer.hasRateHeaders ? RATE_HEADERS : []),
        ]),
        content: Object.fromEntries(
          Object.entries(answer.content).map(([type, held]) => [
            type,
            {
              schema:
                typeof held === 'string'
                  ? { type: 'string', description: held }
                  : composeSchema(held, schemas),
            },
          ]),
        ),
      },
      ...composeRefusals(listErrors(operation)),
    },
  }
}

function composeParameters({ parameters = {}, query, isIdempotent }: Operation) {
  const { properties = {}, required = [] } = query ? convert(query) : {}
  const all = [
    ...Object.entries(parameters).map(([name, description]) => ({
      name,
      in: 'path',
      required: true,
      description,
      schema: { type: 'string' },
    })),
    ...Object.entries(properties).map(([name, schema]) => ({
      name,
      in: 'query',
      required: required.includes(name),
      schema,
    })),
    ...(isIdempotent
      ? [
          {
            name: 'Idempotency-Key',
            in: 'header',
            required: false,
            description:
              'The same key and body within 24 hours get the first answer again, billed once.',
            schema: { type: 'string', minLength: 1, maxLength: 255 },
          },
        ]
      : []),
  ]
  return all.length === 0 ? {} : { parameters: all }
}

function listErrors({ key, body, form, isIdempotent, errors = [] }: Operation): Set<ErrorCode> {
  return new Set([
    ...COMMON,
    ...(key === null ? [] : AUTHENTICATED),
    ...(key === 'api' ? RATIONED : []),
    ...((body ?? form) === undefined ? [] : WITH_BODY),
    ...(isIdempotent ? [...METERED, ...IDEMPOTENT] : []),
    ...errors,
  ])
}

function composeRefusals(codes: ReadonlySet<ErrorCode>): Json {
  const byStatus = Map.groupBy(codes, (code) => ERRORS[code].status)
  const refusals = [...byStatus].map(([status, some]) => {
    const maySayWhen = status === 429 || status === 503 || status === 409
    const names = ['x-request-id', ...(maySayWhen ? ['retry-after', 'retry-after-ms'] : [])]
    return [
      String(status),
      {
        description: some.map((code) => `\`${code}\`: ${ERRORS[code].message}`).join('\n\n'),
        headers: refer('headers', names),
        content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
      },
    ]
  })
  return Object.fromEntries(refusals)
}

function composeErrorSchema(): Json {
  const codes = Object.keys(ERRORS)
  return {
    type: 'object',
    required: ['error'],
    properties: {
      error: {
        type: 'object',
        required: ['message', 'type', 'param', 'code'],
        properties: {
          message: { type: 'string' },
          type: { enum: [...new Set(Object.values(ERRORS).map(({ type }) => type))] },
          param: {
            type: ['string', 'null'],
            description: 'The field at fault, as in `messages[0].content`.',
          },
          code: { enum: codes },
        },
        additionalProperties: false,
      },
    },
    additionalProperties: false,
  }
}

const RATE_HEADERS = ['limit', 'remaining', 'reset'].flatMap((what) => [
  `x-ratelimit-${what}-requests`,
  `x-ratelimit-${what}-tokens`,
])

const HEADERS: Json = {
  'x-request-id': header('Our id of the request; receipts are asked for by it.'),
  'openai-processing-ms': header('How long the gateway took, milliseconds.'),
  'retry-after': header('When a retry can succeed, seconds.'),
  'retry-after-ms': header('The same, milliseconds.'),
  ...Object.fromEntries(
    RATE_HEADERS.map((name) => [name, header('Of the limit that is nearest its end.')]),
  ),
}

function header(description: string): Json {
  return { description, schema: { type: 'string' } }
}

function refer(kind: string, names: readonly string[]): Json {
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/${kind}/${name}` }]))
}

/** JSON Schema of what is sent, its named parts moved to the document's. */
function composeSchema(schema: z.ZodType, schemas: Record<string, Json>): Json {
  const { $defs = {}, ...rest } = convert(schema)
  const id = schema.meta()?.id
  for (const [name, part] of Object.entries($defs)) schemas[name] ??= part
  if (id === undefined) return rest
  schemas[id] ??= rest
  return { $ref: `#/components/schemas/${id}` }
}

interface ConvertedSchema extends Json {
  readonly $defs?: Readonly<Record<string, Json>>
  readonly properties?: Readonly<Record<string, Json>>
  readonly required?: readonly string[]
}

/** As it is on the wire, before any transformation. */
function convert(schema: z.ZodType): ConvertedSchema {
  const { $schema: _, ...converted } = z.toJSONSchema(schema, {
    io: 'input',
    unrepresentable: 'any',
    override: ({ jsonSchema }) => {
      // Bounds of exact integers say nothing of the API.
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum
      delete jsonSchema.id
    },
  })
  const text = JSON.stringify(converted).replaceAll('"#/$defs/', '"#/components/schemas/')
  return JSON.parse(text) as ConvertedSchema // toJSONSchema makes nothing else
}
