/** What the soak asks for: requests with exactly one right answer, and requests that must be refused. */

export interface SoakRequest {
  /** Unique among the requests of a run. */
  readonly name: string
  readonly path: '/v1/chat/completions' | '/v1/completions' | '/v1/embeddings'
  /** Without `model`. */
  readonly body: Readonly<Record<string, unknown>>
}

export interface BadRequest {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly body: string | null
  readonly headers?: Readonly<Record<string, string>>
  readonly status: number
  readonly code: string
}

const WORDS =
  'the old harbour keeps its lamps lit while ships of many nations wait for wind and a tired clerk writes down 17 names, 4 cargoes & one debt; nobody reads it — not even the sea'.split(
    ' ',
  )

const SCHEMA = {
  type: 'object',
  properties: { name: { type: 'string', maxLength: 8 }, count: { type: 'integer' } },
  required: ['name', 'count'],
  additionalProperties: false,
}

type Random = () => number

const pick = <Item>(random: Random, items: readonly Item[]): Item =>
  items[Math.floor(random() * items.length)] as Item // the lists here are not empty

const between = (random: Random, least: number, most: number) =>
  least + Math.floor(random() * (most - least + 1))

const sentence = (random: Random, wordCount: number) =>
  Array.from({ length: wordCount }, () => pick(random, WORDS)).join(' ')

/** Begins like others of its family, so that they share pages of the prefix cache. */
function createPrompts(random: Random) {
  const beginnings = [0, 0, 20, 40, 60].map((wordCount) => sentence(random, wordCount))
  return () => `${pick(random, beginnings)} ${sentence(random, between(random, 1, 12))}`.trim()
}

/** Each kind of answer there is, greedy or with a seed. */
const KINDS: readonly ((random: Random, prompt: () => string) => Omit<SoakRequest, 'name'>)[] = [
  (random, prompt) => chat(random, prompt, { temperature: 0 }),
  (random, prompt) =>
    chat(random, prompt, { temperature: 1.2, presence_penalty: 0.4, frequency_penalty: 0.3 }),
  (random, prompt) => chat(random, prompt, { logprobs: true, top_logprobs: 3, top_p: 0.9 }),
  (random, prompt) => chat(random, prompt, { response_format: { type: 'json_object' } }),
  (random, prompt) =>
    chat(random, prompt, {
      response_format: { type: 'json_schema', json_schema: { name: 'entry', schema: SCHEMA } },
    }),
  (random, prompt) => complete(random, prompt(), { n: 3, min_p: 0.02 }),
  (random, prompt) => complete(random, [prompt(), prompt()], { temperature: 0 }),
  (random, prompt) => complete(random, prompt(), { echo: true, logprobs: 2 }),
  (random, prompt) => complete(random, prompt(), { stop: [' a', 'e'], top_k: 40 }),
  (random, prompt) =>
    complete(random, prompt(), {
      logit_bias: { 40: 3, 60: -100, 90: 2 },
      repetition_penalty: 1.3,
    }),
  (_, prompt) => ({ path: '/v1/embeddings', body: { input: [prompt(), prompt()] } }),
  (random) => ({
    path: '/v1/embeddings',
    body: {
      input: Array.from({ length: between(random, 1, 90) }, () => between(random, 5, 250)),
      encoding_format: 'base64',
      dimensions: 16,
    },
  }),
]

export function drawRequests(random: Random, count: number): readonly SoakRequest[] {
  const prompt = createPrompts(random)
  return Array.from({ length: count }, (_, index) => {
    const kind = KINDS[index % KINDS.length]
    if (!kind) throw new Error('there are no kinds')
    return { name: `request ${index}`, ...kind(random, prompt) }
  })
}

function chat(random: Random, prompt: () => string, fields: object): Omit<SoakRequest, 'name'> {
  const turns = pick(random, [1, 1, 3])
  const messages = Array.from({ length: turns }, (_, turn) => ({
    role: turn % 2 === 0 ? 'user' : 'assistant',
    content: turn === turns - 1 ? prompt() : sentence(random, 3),
  }))
  const max_tokens = between(random, 1, 48)
  return {
    path: '/v1/chat/completions',
    body: { ...seeded(random), messages, max_tokens, ...fields },
  }
}

function complete(random: Random, prompt: string | readonly string[], fields: object) {
  const max_tokens = between(random, 1, 48)
  return {
    path: '/v1/completions' as const,
    body: { ...seeded(random), prompt, max_tokens, ...fields },
  }
}

function seeded(random: Random) {
  return { temperature: 0.8, seed: between(random, 0, 1e9) }
}

/** Bodies are of one model, which is there. */
export function listBadRequests(model: string): readonly BadRequest[] {
  const post = (path: string, body: unknown, status: number, code: string): BadRequest => ({
    method: 'POST',
    path,
    body: typeof body === 'string' ? body : JSON.stringify(body),
    status,
    code,
  })
  const chatWith = (fields: object) => ({
    model,
    messages: [{ role: 'user', content: 'Hi' }],
    ...fields,
  })
  const chatPath = '/v1/chat/completions'
  const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`
  return [
    post(chatPath, '{"model":', 400, 'invalid_json'),
    post(chatPath, '[]', 400, 'invalid_request'),
    post(chatPath, chatWith({ messages: [] }), 400, 'invalid_request'),
    post(chatPath, chatWith({ temperature: 3 }), 400, 'invalid_request'),
    post(chatPath, chatWith({ n: 9 }), 400, 'invalid_request'),
    post(chatPath, chatWith({ logit_bias: { 999999999: 1 } }), 400, 'invalid_request'),
    post(chatPath, chatWith({ response_format: { type: 'xml' } }), 400, 'unsupported_parameter'),
    post(chatPath, chatWith({ max_tokens: 1e9 }), 400, 'context_length_exceeded'),
    post(chatPath, chatWith({ model: 'nobody' }), 404, 'model_not_found'),
    post(chatPath, `{"model":"${model}","messages":${deep}}`, 400, 'invalid_request'),
    post(chatPath, chatWith({ user: 'x'.repeat(70_000) }), 413, 'request_too_large'),
    post('/v1/completions', { model, prompt: [] }, 400, 'invalid_request'),
    post(
      '/v1/completions',
      { model, prompt: 'word '.repeat(9_000) },
      400,
      'context_length_exceeded',
    ),
    post('/v1/embeddings', { model, input: 'a', dimensions: 1e6 }, 400, 'invalid_request'),
    post('/v1/embeddings', { model, input: [1e9] }, 400, 'invalid_request'),
    post('/v1/models', {}, 405, 'method_not_allowed'),
    post('/v1/adapters', { path: '../..' }, 422, 'adapter_rejected'),
    post('/v1/adapters', { repo: 'no/where', path: 'both' }, 400, 'invalid_request'),
    { method: 'GET', path: '/v1/adapters/nobody', body: null, status: 404, code: 'not_found' },
    { method: 'GET', path: '/nothing', body: null, status: 404, code: 'not_found' },
    {
      ...post(chatPath, chatWith({}), 400, 'invalid_request'),
      headers: { 'x-tallygate-tier': 'royal' },
    },
  ]
}
