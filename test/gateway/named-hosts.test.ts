import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'

/** A server of the operator's network that nobody named to the gateway. */
let inside: { url: string; server: Server }
/** The backend, gone bad: whatever it is asked, it sends the caller inside. */
let backend: { url: string; server: Server }
let gateway: GatewayUnderTest
const reached: string[] = []
const asked = new Set<string>()
/** The path whose answers begin and never end. */
let streamedAt: string | null = null

async function listen(handler: RequestListener) {
  const server = createServer(handler).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo // listening on TCP
  return { url: `http://127.0.0.1:${port}`, server }
}

beforeAll(async () => {
  inside = await listen((req, res) => {
    reached.push(`${req.method} ${req.url}`)
    res.end('{}')
  })
  backend = await listen((req, res) => {
    const { pathname } = new URL(req.url ?? '', 'http://x')
    asked.add(pathname.replace(/req_.*/, 'id'))
    if (pathname === '/v1/models') {
      const model = { id: 'base', object: 'model', created: 1, owned_by: 'x', max_model_len: 100 }
      res.setHeader('content-type', 'application/json')
      res.end(JSON.stringify({ data: [{ ...model, digest: `0x${'cd'.repeat(32)}` }] }))
      return
    }
    req.resume()
    if (pathname === streamedAt) {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      res.write('data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
      return
    }
    res.writeHead(307, { location: `${inside.url}${pathname}` }).end()
  })
  gateway = await startGatewayUnderTest([{ id: 'bad', url: backend.url }])
})
afterAll(async () => {
  await gateway?.close()
  for (const { server } of [inside, backend]) {
    server?.closeAllConnections()
    server?.close()
  }
})

const userText = (content: unknown) => ({ model: 'base', messages: [{ role: 'user', content }] })

test('the question what became of a request goes to the backend alone', async () => {
  streamedAt = '/v1/completions'
  const abort = new AbortController()
  const response = await gateway.call(streamedAt, {
    json: { model: 'base', prompt: 'x', stream: true },
    signal: abort.signal,
  })
  await response.body?.getReader().read()
  streamedAt = null
  abort.abort()
  await gateway.settledUsage([response.headers.get('x-request-id') ?? ''])
  expect(response.status).toBe(200)
  expect(asked).toContain('/tallygate/requests/id')
  expect(reached).toEqual([])
})

test('no request reaches an address that the operator did not name', async () => {
  const { url } = inside
  const image = { type: 'image_url', image_url: { url: `${url}/image` } }
  const calls: readonly (readonly [path: string, json: object, headers?: object])[] = [
    ['/v1/chat/completions', userText('x')],
    ['/v1/chat/completions', { ...userText('x'), stream: true }],
    ['/v1/completions', { model: 'base', prompt: 'x' }],
    ['/v1/embeddings', { model: 'base', input: url }],
    ['/v1/chat/completions', userText([image])],
    ['/v1/chat/completions', { ...userText('x'), model: `${url}/v1` }],
    ['/v1/chat/completions', { ...userText('x'), base_url: url, api_base: url, metadata: { url } }],
    ['/v1/chat/completions', { ...userText('x'), tools: [{ type: 'mcp', server_url: url }] }],
    ['/v1/chat/completions', userText('x'), { 'x-forwarded-host': new URL(url).host }],
    ['/v1/chat/completions', userText('x'), { 'x-portkey-custom-host': url, forwarded: url }],
  ]
  for (const [path, json, headers] of calls) {
    const response = await gateway.call(path, { json, headers: { ...headers } })
    expect(response.status).toBeGreaterThanOrEqual(400)
    await response.body?.cancel()
  }
  for (const id of [url, `${url}/..`, '../../', encodeURIComponent(`${url}/x`)]) {
    expect((await gateway.call(`/v1/models/${id}`)).status).toBe(404)
    expect((await gateway.call(`/v1/receipts/${id}`)).status).toBe(404)
  }
  expect(asked).toContain('/v1/chat/completions')
  expect(reached).toEqual([])
})

test('nor a request whose target or host names another server', async () => {
  const { hostname, port } = new URL(gateway.url)
  const { host } = new URL(inside.url)
  for (const target of [`${inside.url}/v1/models`, '/v1/models', `//${host}/v1/models`]) {
    const socket = connect(Number(port), hostname)
    const closed = once(socket, 'close')
    const answered = once(socket, 'data')
    socket.write(
      `GET ${target} HTTP/1.1\r\nhost: ${host}\r\nauthorization: Bearer ${gateway.apiKey}\r\n\r\n`,
    )
    await Promise.race([answered, closed])
    socket.destroy()
  }
  expect(reached).toEqual([])
})

test('nor a webhook', async () => {
  for (const webhook of [inside.url, 'http://169.254.169.254/x', 'https://[::ffff:127.0.0.1]/']) {
    const { error } = await gateway.admin('PATCH', `/accounts/${gateway.accountId}`, {
      alerts: { url: webhook, percents: [1] },
    })
    expect(error).toMatchObject({ code: 'invalid_request', param: 'alerts.url' })
  }
  expect(reached).toEqual([])
})
