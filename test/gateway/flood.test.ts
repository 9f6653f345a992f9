import { createHmac } from 'node:crypto'
import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { type Exchange, usageOf } from '../support/scripted-upstream.ts'

const FREE_CALLS_PER_MINUTE = 60
const FLOOD_COUNT = 400
const PARALLEL_COUNT = 16

/** Requests that wait for an answer. */
const held: Exchange[] = []

const { gateway } = useScriptedGateway(
  {
    m: { script: (each) => each.sendJson(200, { id: 'x', choices: [], usage: usageOf(6, 0) }) },
    held: { script: (each) => void held.push(each) },
  },
  { vars: { FREE_CALLS_PER_MINUTE: String(FREE_CALLS_PER_MINUTE) } },
)

/** Calls of account objects until now, by this isolate's own count. */
async function countObjectCalls(): Promise<number> {
  const headers = { authorization: `Bearer ${gateway.adminKey}` }
  const text = await (await gateway.call('/metrics', { headers })).text()
  const counts = text.matchAll(/^tallygate_account_calls_total\{.*\} (\d+)$/gm)
  return [...counts].reduce((sum, [, count]) => sum + Number(count), 0)
}

/** Sends as many as `FLOOD_COUNT`, some at a time; the statuses, and how many calls of objects they cost. */
async function flood(ask: (index: number) => Promise<Response>) {
  const before = await countObjectCalls()
  const startedAtMs = Date.now()
  const responses: Response[] = []
  const worker = async () => {
    while (responses.length < FLOOD_COUNT) {
      const response = await ask(responses.length)
      await response.clone().text()
      responses.push(response)
    }
  }
  await Promise.all(Array.from({ length: PARALLEL_COUNT }, worker))
  const lastedSeconds = (Date.now() - startedAtMs) / 1_000
  const byStatus = Map.groupBy(responses, ({ status }) => status)
  const callCount = (await countObjectCalls()) - before
  return { responses, byStatus, callCount, lastedSeconds }
}

const complete = (apiKey: string, more: object = {}, headers: object = {}) =>
  gateway.call('/v1/completions', {
    headers: { authorization: `Bearer ${apiKey}`, ...headers } as Record<string, string>,
    json: { model: 'm', prompt: 'x', max_tokens: 1, ...more },
  })

const createKey = (settings: object) =>
  gateway.admin('POST', `/accounts/${gateway.accountId}/keys`, { name: 'test', ...settings })

const ASKS_PER_SECOND = 20

/** Those under way when the first refusal came, and a few each second. */
const boundCalls = (lastedSeconds: number) =>
  PARALLEL_COUNT + ASKS_PER_SECOND * (Math.ceil(lastedSeconds) + 1)

test('a flood of a key that is out of requests reaches its object a few times a second', async () => {
  const { api_key } = await createKey({ requests_per_minute: 1 })
  const { responses, byStatus, callCount, lastedSeconds } = await flood(() => complete(api_key))
  expect([...byStatus.keys()].toSorted()).toEqual([200, 429])
  expect(byStatus.get(200)!.length).toBeLessThanOrEqual(1 + lastedSeconds / 60)
  expect(callCount).toBeLessThanOrEqual(boundCalls(lastedSeconds))
  for (const refused of byStatus.get(429)!) {
    expect(await refused.json()).toEqual({
      error: {
        message: "The key's limit of 1 requests a minute is reached. Try again shortly.",
        type: 'rate_limit_error',
        code: 'rate_limit_exceeded',
        param: null,
      },
    })
    const retryAfterMs = Number(refused.headers.get('retry-after-ms'))
    expect(retryAfterMs).toBeGreaterThan(0)
    expect(retryAfterMs).toBeLessThanOrEqual(60_000)
    expect(refused.headers.get('x-ratelimit-remaining-requests')).toBe('0')
  }
  const first = Number(byStatus.get(429)!.at(0)!.headers.get('retry-after-ms'))
  const last = Number(responses.at(-1)!.headers.get('retry-after-ms'))
  expect(last).toBeLessThan(first)
})

test('nor does one of a key whose budget is spent, or that names what it may not use', async () => {
  const broke = await createKey({ budget_micro_usd: 0 })
  const spent = await flood(() => complete(broke.api_key))
  expect([...spent.byStatus.keys()]).toEqual([402])
  expect(spent.callCount).toBeLessThanOrEqual(boundCalls(spent.lastedSeconds))
  const narrow = await createKey({ models: ['n'] })
  const forbidden = await flood(() => complete(narrow.api_key))
  expect([...forbidden.byStatus.keys()]).toEqual([403])
  expect(forbidden.callCount).toBeLessThanOrEqual(boundCalls(forbidden.lastedSeconds))
})

test('nor one whose requests may be answers to be given again', async () => {
  const { api_key } = await createKey({ requests_per_minute: 1 })
  const { callCount, lastedSeconds } = await flood((index) =>
    complete(api_key, {}, { 'idempotency-key': `flood ${index}` }),
  )
  const allowed = FREE_CALLS_PER_MINUTE * (1 + lastedSeconds / 60)
  expect(callCount).toBeLessThanOrEqual(allowed + boundCalls(lastedSeconds))
})

test('nor one beside as many requests as may run at the same time', async () => {
  const { api_key } = await createKey({ max_concurrent_requests: 2 })
  const running = [complete(api_key, { model: 'held' }), complete(api_key, { model: 'held' })]
  await expect.poll(() => held.length, { timeout: 5_000 }).toBe(2)
  const { byStatus, callCount, lastedSeconds } = await flood(() => complete(api_key))
  expect([...byStatus.keys()]).toEqual([429])
  expect(callCount).toBeLessThanOrEqual(boundCalls(lastedSeconds))
  expect(await byStatus.get(429)!.at(-1)!.json()).toMatchObject({
    error: {
      code: 'concurrency_exceeded',
      message: "The key's limit of 2 parallel requests is reached.",
    },
  })
  for (const each of held) each.sendJson(200, { id: 'x', choices: [], usage: usageOf(6, 0) })
  // Settled before its last bytes.
  for (const response of running) expect(await (await response).text()).toContain('usage')
  expect((await complete(api_key)).status).toBe(200)
})

test('nor one of calls that cost nothing', async () => {
  const { api_key } = await createKey({})
  const headers = { authorization: `Bearer ${api_key}` }
  const { byStatus, callCount, lastedSeconds } = await flood(() =>
    gateway.call('/v1/key', { headers }),
  )
  expect([...byStatus.keys()].toSorted()).toEqual([200, 429])
  expect(callCount).toBeLessThanOrEqual(FREE_CALLS_PER_MINUTE * (1 + lastedSeconds / 60))
  expect(callCount).toBe(byStatus.get(200)!.length)
  const refused = byStatus.get(429)!.at(-1)!
  expect(await refused.json()).toMatchObject({ error: { code: 'rate_limit_exceeded' } })
  expect(Number(refused.headers.get('retry-after-ms'))).toBeLessThanOrEqual(1_000)
})

test('wrong keys reach nothing, revoked ones a few times a second, and a new one works at once', async () => {
  const draw = (index: number) => createHmac('sha256', 'x').update(`${index}`).digest('hex')
  const made = await flood((index) =>
    complete(`tg_${draw(index).slice(0, 16)}_${draw(index).slice(0, 48)}`),
  )
  expect([[...made.byStatus.keys()], made.callCount]).toEqual([[401], 0])

  const { id, api_key } = await createKey({})
  await gateway.admin('DELETE', `/accounts/${gateway.accountId}/keys/${id}`)
  const headers = { authorization: `Bearer ${api_key}` }
  const revoked = await flood((index) =>
    index % 2 === 0 ? complete(api_key) : gateway.call('/v1/usage', { headers }),
  )
  expect([...revoked.byStatus.keys()]).toEqual([401])
  expect(revoked.callCount).toBeLessThanOrEqual(boundCalls(revoked.lastedSeconds))
  expect((await complete((await createKey({})).api_key)).status).toBe(200)
})

test('a limit that is raised in mid-flood holds within a second', async () => {
  const account = await gateway.admin('POST', '/accounts', { name: 'test', requests_per_minute: 1 })
  await flood(() => complete(account.api_key))
  await gateway.admin('PATCH', `/accounts/${account.id}`, { requests_per_minute: 600_000 })
  await expect
    .poll(async () => (await complete(account.api_key)).status, { timeout: 5_000 })
    .toBe(200)
  expect((await complete(account.api_key)).status).toBe(200)
})
