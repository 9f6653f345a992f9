import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { mutateJson } from '../support/hostile-json.ts'
import { createRandom } from '../support/random.ts'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { type Exchange, usageOf } from '../support/scripted-upstream.ts'

const CANARY = 'canary-prompt-77aa'
const MUTATION_COUNT = 1_000
const SEED = Number(process.env.FUZZ_SEED ?? 1)

const { upstream, gateway } = useScriptedGateway(
  {
    base: { script: answer, maxModelLength: 1_000, digest: `0x${'cd'.repeat(32)}` },
  },
  { vars: { MAX_BODY_BYTES: '20000', BODY_TIMEOUT_MS: '1500' } },
)

function answer(exchange: Exchange): void {
  if (exchange.body.stream === true) {
    exchange.startStream()
    exchange.sendToken('ok')
    exchange.finishStream(usageOf(4, 1))
    return
  }
  exchange.sendJson(200, {
    id: 'x',
    choices: [{ index: 0, message: { role: 'assistant', content: 'ok' }, finish_reason: 'stop' }],
    data: [{ index: 0, embedding: [1] }],
    usage: usageOf(4, 1),
  })
}

const messages = [
  { role: 'system', content: 'Be short.' },
  { role: 'user', content: [{ type: 'text', text: CANARY }] },
]
const VALID: readonly (readonly [path: string, body: object])[] = [
  [
    '/v1/chat/completions',
    {
      ...{ model: 'base', messages, max_tokens: 5, temperature: 0.5, top_p: 0.9, n: 1, seed: 7 },
      ...{ stop: ['x', 'y'], logit_bias: { '5': 1 }, logprobs: true, top_logprobs: 2 },
      response_format: { type: 'json_schema', json_schema: { name: 'a', schema: {} } },
      tools: [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }],
    },
  ],
  [
    '/v1/chat/completions',
    { model: 'base', messages, stream: true, stream_options: { include_usage: true }, user: 'u' },
  ],
  ['/v1/completions', { model: 'base', prompt: [CANARY, 'b'], max_tokens: 3, echo: true }],
  ['/v1/embeddings', { model: 'base', input: [[1, 2], [3]], dimensions: 8 }],
  [
    '/v1/responses',
    {
      ...{ model: 'base', max_output_tokens: 20, store: true, metadata: { a: 'b' } },
      input: [{ role: 'user', content: [{ type: 'input_text', text: CANARY }] }],
      text: { format: { type: 'json_schema', name: 'a', schema: {} } },
      tools: [{ type: 'function', name: 'f', parameters: {}, strict: false }],
    },
  ],
  ['/v1/tokenize', { model: 'base', prompt: CANARY, add_special_tokens: true }],
]

test(`${MUTATION_COUNT} mutations of valid bodies are served or refused, all settled, nothing told`, async () => {
  for (const [path, json] of VALID) expect((await gateway.call(path, { json })).status).toBe(200)

  const random = createRandom(SEED)
  const seen: Record<number, number> = {}
  const mutations = Array.from({ length: MUTATION_COUNT }, (_, index) => {
    const [path, body] = VALID[index % VALID.length]!
    return { path, body: mutateJson(body, random) }
  })
  const send = async ({ path, body }: (typeof mutations)[number]) => {
    const response = await gateway.call(path, { method: 'POST', body })
    const text = await response.text()
    const what = `${path} ${new TextDecoder().decode(body)} → ${response.status} ${text}`
    seen[response.status] = (seen[response.status] ?? 0) + 1
    expect([200, 400, 404, 413], what).toContain(response.status)
    if (response.status !== 200) {
      const { error } = JSON.parse(text)
      expect(Object.keys(error).sort(), what).toEqual(['code', 'message', 'param', 'type'])
    }
    expect(text.includes(CANARY), what).toBe(false)
  }
  for (let from = 0; from < mutations.length; from += 25) {
    await Promise.all(mutations.slice(from, from + 25).map(send))
  }
  expect(seen[200]).toBeGreaterThan(MUTATION_COUNT / 20)
  expect(seen[400]).toBeGreaterThan(MUTATION_COUNT / 3)

  const served = new Set(upstream.exchanges.map(({ requestId }) => requestId))
  expect(served.size).toBe(upstream.exchanges.length)
  const lines = await gateway.settledUsage([...served])
  expect(lines).toHaveLength(served.size)
  const state = await gateway.admin('GET', `/accounts/${gateway.accountId}`)
  expect(state).toMatchObject({ open_reservation_count: 0, last_alarm_error: null })
  for (const secret of [CANARY, gateway.apiKey]) {
    expect(gateway.logLines.join('\n')).not.toContain(secret)
  }
}, 120_000)

/** What a server says to raw bytes until it closes, or until the answer's head has come. */
async function sendRaw(...parts: readonly (string | number)[]): Promise<string> {
  const { hostname, port } = new URL(gateway.url)
  const socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  let received = ''
  socket.setEncoding('utf8')
  socket.on('data', (text) => {
    received += text
  })
  socket.on('error', () => {}) // a reset is an answer too
  const closed = once(socket, 'close')
  for (const part of parts) {
    if (typeof part === 'number') await new Promise((resolve) => setTimeout(resolve, part))
    else if (!socket.destroyed) socket.write(part)
  }
  const headArrived = (async () => {
    while (!received.includes('\r\n\r\n')) await new Promise((resolve) => setTimeout(resolve, 20))
  })()
  await Promise.race([closed, headArrived])
  socket.destroy()
  return received
}

const head = (extra: string, length: number) =>
  `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${gateway.apiKey}\r\n` +
  `content-type: application/json\r\ncontent-length: ${length}\r\n${extra}\r\n`

test('a body that stops coming is refused, and does not hold its connection', async () => {
  const answered = await sendRaw(head('', 1_000), '{"model":"ba')
  expect(answered).toMatch(/^HTTP\/1\.1 408 /)
})

test('a body that comes slowly, but comes, is served', async () => {
  const body = JSON.stringify({ model: 'base', messages: [{ role: 'user', content: 'x' }] })
  const parts = [...body].flatMap((letter, index) => (index % 20 === 0 ? [40, letter] : [letter]))
  expect(await sendRaw(head('', body.length), ...parts)).toMatch(/^HTTP\/1\.1 200 /)
})

test('header floods and malformed requests leave the gateway serving', async () => {
  const lines = (count: number, size: number) =>
    Array.from({ length: count }, (_, i) => `x-flood-${i}: ${'a'.repeat(size)}\r\n`).join('')
  const hostile = [
    `${head(lines(2_000, 10), 2)}{}`,
    `${head(lines(10, 100_000), 2)}{}`,
    `${head(`cookie: ${'a=b; '.repeat(50_000)}\r\n`, 2)}{}`,
    'GET / HTTP/1.1\r\n\r\n',
    'POST http://127.0.0.1:1/v1/chat/completions HTTP/1.1\r\nhost: y\r\n\r\n',
    '\u0000\u0001\u0002',
    `${head('transfer-encoding: chunked\r\n', 5)}zz\r\n`,
  ]
  for (const bytes of hostile) {
    expect(await sendRaw(bytes)).not.toMatch(/^HTTP\/1\.1 5/)
  }
  expect((await gateway.call('/v1/models')).status).toBe(200)
})
