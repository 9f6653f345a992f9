import { receiptSchema } from '../../protocol/receipt.ts'
import { ADAPTER_OPERATIONS } from './adapter-operations.ts'
import { ADMIN_OPERATIONS } from './admin-operations.ts'
import { getBatchPayload } from './batch-payload.ts'
import {
  chatCompletionSchema,
  chatRequestSchema,
  createChatCompletion,
} from './chat-completions.ts'
import { completionRequestSchema, completionSchema, createCompletion } from './completions.ts'
import { createEmbeddings, embeddingListSchema, embeddingRequestSchema } from './embeddings.ts'
import { EVENT_STREAM } from './generation-schema.ts'
import { getHealth, healthSchema } from './health.ts'
import { callerKeySchema, getKey } from './key.ts'
import { getMetrics } from './metrics.ts'
import { getModel, listModels, modelListSchema, modelSchema } from './models.ts'
import { jsonAnswer, type Operation } from './operation.ts'
import { getReceipt } from './receipts.ts'
import { responseRequestSchema } from './responses/request-schema.ts'
import { deletedResponseSchema, responseSchema } from './responses/response-schema.ts'
import { createResponse, deleteResponse, getResponse } from './responses.ts'
import {
  getStatement,
  listStatements,
  STATEMENT_ANSWER,
  statementListSchema,
} from './statements.ts'
import {
  createDetokenization,
  createTokenization,
  detokenizationSchema,
  detokenizeRequestSchema,
  tokenizationSchema,
  tokenizeRequestSchema,
} from './tokenize.ts'
import { getUsage, usagePageSchema, usageQuerySchema } from './usage.ts'

const GENERATION = { method: 'POST', key: 'api', tag: 'Generation', isIdempotent: true } as const

/** Everything that the gateway answers: its routes, and what its OpenAPI document says. */
export const OPERATIONS: readonly Operation[] = [
  {
    ...GENERATION,
    path: '/v1/chat/completions',
    handler: createChatCompletion,
    id: 'createChatCompletion',
    summary: 'Answer the next turn of a conversation',
    description:
      'Fields that are not named here go to the backend as they are: `top_k`, `min_p`, `repetition_penalty` and what else it knows.',
    body: chatRequestSchema,
    answer: {
      ...jsonAnswer(chatCompletionSchema, 'The answer, whole or streamed.'),
      content: { 'application/json': chatCompletionSchema, 'text/event-stream': EVENT_STREAM },
      hasRateHeaders: true,
    },
  },
  {
    ...GENERATION,
    path: '/v1/responses',
    handler: createResponse,
    id: 'createResponse',
    summary: 'Create a response',
    description:
      'Translated onto chat completions, so that every model can serve it. What OpenAI offers beyond this is refused with `unsupported_parameter`, never ignored.',
    body: responseRequestSchema,
    answer: {
      ...jsonAnswer(responseSchema, 'The response, whole or as its events.'),
      content: {
        'application/json': responseSchema,
        'text/event-stream':
          'Server-sent events as OpenAI has them, from `response.created` to `response.completed`, `response.incomplete` or `response.failed`.',
      },
      hasRateHeaders: true,
    },
    errors: ['not_found'],
  },
  {
    method: 'GET',
    path: '/v1/responses/:id',
    handler: getResponse,
    key: 'api',
    id: 'getResponse',
    tag: 'Generation',
    summary: 'Read a kept response',
    parameters: { id: 'Of the response, `resp_…`.' },
    answer: jsonAnswer(responseSchema, 'As it was answered, for 30 days.'),
    errors: ['insufficient_scope', 'not_found'],
  },
  {
    method: 'DELETE',
    path: '/v1/responses/:id',
    handler: deleteResponse,
    key: 'api',
    id: 'deleteResponse',
    tag: 'Generation',
    summary: 'Forget a kept response',
    parameters: { id: 'Of the response, `resp_…`.' },
    answer: jsonAnswer(deletedResponseSchema, 'It and its conversation are gone.'),
    errors: ['insufficient_scope', 'not_found'],
  },
  {
    ...GENERATION,
    path: '/v1/completions',
    handler: createCompletion,
    id: 'createCompletion',
    summary: 'Go on with a text',
    body: completionRequestSchema,
    answer: {
      ...jsonAnswer(completionSchema, 'The answer, whole or streamed.'),
      content: { 'application/json': completionSchema, 'text/event-stream': EVENT_STREAM },
      hasRateHeaders: true,
    },
  },
  {
    ...GENERATION,
    path: '/v1/embeddings',
    handler: createEmbeddings,
    id: 'createEmbeddings',
    summary: 'Turn texts into vectors',
    body: embeddingRequestSchema,
    answer: jsonAnswer(embeddingListSchema, 'A vector for each input.', { hasRateHeaders: true }),
  },
  {
    ...GENERATION,
    path: '/v1/tokenize',
    handler: createTokenization,
    id: 'createTokenization',
    summary: 'Say which tokens a prompt has',
    description: 'Of a text or of a conversation. Free of charge; counts as a request.',
    body: tokenizeRequestSchema,
    answer: jsonAnswer(tokenizationSchema, 'The tokens, as vLLM tells them.', {
      hasRateHeaders: true,
    }),
  },
  {
    ...GENERATION,
    path: '/v1/detokenize',
    handler: createDetokenization,
    id: 'createDetokenization',
    summary: 'Say which text tokens have',
    description: 'Free of charge; counts as a request.',
    body: detokenizeRequestSchema,
    answer: jsonAnswer(detokenizationSchema, 'The text.', { hasRateHeaders: true }),
  },
  {
    method: 'GET',
    path: '/v1/models',
    handler: listModels,
    key: 'api',
    id: 'listModels',
    tag: 'Models',
    summary: 'List base models and adapters',
    answer: jsonAnswer(modelListSchema, 'What the backends serve and this key may use.'),
    errors: ['no_backend'],
  },
  {
    method: 'GET',
    path: '/v1/models/:id{.+}',
    handler: getModel,
    key: 'api',
    id: 'getModel',
    tag: 'Models',
    summary: 'Find a model',
    parameters: { id: 'Of the model; it may hold `/` and `:`.' },
    answer: jsonAnswer(modelSchema, 'The model, with the digest of its exact weights.'),
    errors: ['model_not_found', 'no_backend'],
  },
  ...ADAPTER_OPERATIONS,
  {
    method: 'GET',
    path: '/v1/usage',
    handler: getUsage,
    key: 'api',
    id: 'listUsage',
    tag: 'Account',
    summary: 'List what was used and what it cost',
    description: 'Newest first. Wants the scope `usage:read`.',
    query: usageQuerySchema,
    answer: {
      status: 200,
      description: 'A page of settled requests, and the sums of the period.',
      content: {
        'application/json': usagePageSchema,
        'text/csv': 'The same page for `accept: text/csv`, its cursor in `x-next-cursor`.',
      },
    },
    errors: ['invalid_request', 'insufficient_scope', 'ledger_unavailable'],
  },
  {
    method: 'GET',
    path: '/v1/statements',
    handler: listStatements,
    key: 'api',
    id: 'listStatements',
    tag: 'Account',
    summary: 'List monthly statements',
    description: 'Wants the scope `usage:read`.',
    answer: jsonAnswer(statementListSchema, 'The months with usage, the newest first.'),
    errors: ['insufficient_scope', 'ledger_unavailable'],
  },
  {
    method: 'GET',
    path: '/v1/statements/:month',
    handler: getStatement,
    key: 'api',
    id: 'getStatement',
    tag: 'Account',
    summary: 'Show what a month adds up to',
    description: 'Wants the scope `usage:read`.',
    parameters: { month: '`yyyy-mm`, UTC.' },
    answer: STATEMENT_ANSWER,
    errors: ['invalid_request', 'insufficient_scope', 'not_found', 'ledger_unavailable'],
  },
  {
    method: 'GET',
    path: '/v1/key',
    handler: getKey,
    key: 'api',
    id: 'getKey',
    tag: 'Account',
    summary: 'Describe the key in use',
    answer: jsonAnswer(callerKeySchema, 'Limits, budgets, and what is left.', {
      hasRateHeaders: true,
    }),
  },
  {
    method: 'GET',
    path: '/v1/receipts/:id',
    handler: getReceipt,
    key: 'api',
    id: 'getReceipt',
    tag: 'Account',
    summary: 'Prove one request',
    description: 'Wants the scope `receipts:read`. `npm run verify` checks it without asking us.',
    parameters: { id: 'Of the request (`x-request-id`) or of its answer.' },
    answer: jsonAnswer(
      receiptSchema.meta({ id: 'Receipt' }),
      'The proof, as far as it is anchored.',
    ),
    errors: ['insufficient_scope', 'not_found'],
  },
  {
    method: 'GET',
    path: '/batches/:payloadHash',
    handler: getBatchPayload,
    key: null,
    id: 'getBatchPayload',
    tag: 'Operation',
    summary: 'Read a batch payload',
    parameters: { payloadHash: 'keccak256 of the payload, `0x` and 64 hex digits.' },
    answer: {
      status: 200,
      description: 'What the chain commits to. It holds no prompt, answer or account.',
      content: { 'application/octet-stream': 'The bytes.' },
    },
    errors: ['not_found'],
  },
  {
    method: 'GET',
    path: '/health',
    handler: getHealth,
    key: null,
    id: 'getHealth',
    tag: 'Operation',
    summary: 'Say whether a backend answers',
    description: '503 with the same body when none does.',
    answer: jsonAnswer(healthSchema, 'At least one backend answers.'),
  },
  {
    method: 'GET',
    path: '/metrics',
    handler: getMetrics,
    key: 'admin',
    id: 'getMetrics',
    tag: 'Operation',
    summary: 'Metrics of this isolate for Prometheus',
    description:
      "Wants the operator's key. One isolate's counts: all of them where the gateway is one process; on Cloudflare set `OTLP_ENDPOINT` instead.",
    answer: {
      status: 200,
      description: 'Counters and histograms since the isolate began.',
      content: { 'text/plain': 'The exposition format of Prometheus.' },
    },
  },
  ...ADMIN_OPERATIONS,
]
