import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import {
  type Exchange,
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from '../support/scripted-upstream.ts'

const messages = [{ role: 'user', content: 'hi' }]
const MAX_SERVED_TOKENS = 10

let dear: ScriptedUpstream
let cheap: ScriptedUpstream
let gateway: GatewayUnderTest

function answer(exchange: Exchange) {
  const { model, stream } = exchange.body
  if (!stream)
    return exchange.sendJson(200, { id: 'x', model, choices: [], usage: usageOf(100, 0) })
  exchange.startStream()
  exchange.sendToken('whole')
  exchange.finishStream(usageOf(100, 1))
}

const refuseAsBusy = (exchange: Exchange) => exchange.sendJson(429, {}, { 'retry-after-ms': '70' })

const price = (microUsd: number) => ({
  version: 1,
  promptMicroUsdPerMillion: microUsd,
  cachedMicroUsdPerMillion: 0,
  completionMicroUsdPerMillion: 0,
})

beforeAll(async () => {
  dear = await startScriptedUpstream({
    busy: { script: refuseAsBusy },
    long: {
      script: (each) =>
        each.body.max_tokens <= MAX_SERVED_TOKENS ? answer(each) : refuseAsBusy(each),
    },
    broken: { script: (each) => each.sendJson(500, {}) },
    fine: { script: answer },
    late: { script: () => {} },
    dead: { script: (each) => each.sendJson(503, {}) },
    begun: {
      script: (each) => {
        each.startStream()
        each.sendToken('begun')
        each.res.write(': \n\n', () => each.die())
      },
    },
  })
  cheap = await startScriptedUpstream({ small: { script: answer } })
  gateway = await startGatewayUnderTest([
    { id: 'dear', url: dear.url, price: price(3_000_000) },
    { id: 'cheap', url: cheap.url, price: price(1_000_000) },
  ])
})

afterAll(async () => {
  await gateway.close()
  await Promise.all([dear.close(), cheap.close()])
})

interface Degrade {
  readonly models?: readonly string[]
  readonly max_tokens?: number
}

const ask = (model: string, degrade: Degrade | null, more: object = {}) =>
  gateway.call('/v1/chat/completions', {
    json: { model, messages, max_tokens: 100, ...(degrade && { tallygate: { degrade } }), ...more },
  })

const degradedOf = (response: Response) => response.headers.get('x-tallygate-degraded')

test('nothing is degraded that needs not be, or whose caller has not opted in', async () => {
  const served = await ask('fine', { models: ['small'], max_tokens: 5 })
  expect([served.status, degradedOf(served)]).toEqual([200, null])
  expect(dear.exchanges.at(-1)!.body).toMatchObject({ model: 'fine', max_tokens: 100 })
  const refused = await ask('busy', null)
  expect([refused.status, degradedOf(refused)]).toEqual([429, null])
  expect(refused.headers.get('retry-after-ms')).toBe('70')
  expect(await refused.json()).toMatchObject({ error: { code: 'overloaded' } })
})

test.each([false, true])(
  'another model serves, says so and is what is billed (stream: %s)',
  async (stream) => {
    const response = await ask('busy', { models: ['busy', 'small'] }, { stream })
    expect([response.status, degradedOf(response)]).toEqual([200, 'model=small'])
    expect(await response.text()).toContain('"model":"small"')
    const [line] = await gateway.settledUsage([response.headers.get('x-request-id')!])
    expect(line).toMatchObject({ model: 'small', fee_micro_usd: 100, outcome: 'completed' })
  },
)

test('a shorter answer is tried before another model', async () => {
  const response = await ask('long', { max_tokens: 7, models: ['small'] })
  expect([response.status, degradedOf(response)]).toEqual([200, 'max_tokens=7'])
  expect(dear.exchanges.at(-1)!.body).toMatchObject({ model: 'long', max_tokens: 7 })
  const both = await ask('busy', { max_tokens: 7, models: ['small'] })
  expect(degradedOf(both)).toBe('model=small, max_tokens=7')
  expect(cheap.exchanges.at(-1)!.body).toMatchObject({ model: 'small', max_tokens: 7 })
  const spelled = { max_tokens: undefined, max_completion_tokens: 100 }
  await ask('busy', { max_tokens: 7, models: ['small'] }, spelled)
  expect(cheap.exchanges.at(-1)!.body).toMatchObject({ max_completion_tokens: 7 })
})

test('what failed otherwise, has begun, or could not be told any more is not degraded', async () => {
  const count = cheap.exchanges.length
  const broken = await ask('broken', { models: ['small'] })
  expect([broken.status, degradedOf(broken)]).toEqual([502, null])
  const begun = await (await ask('begun', { models: ['small'] }, { stream: true })).text()
  expect(begun).toContain('"error"')
  const late = await ask('late', { models: ['small'] }, { stream: true })
  refuseAsBusy(dear.exchanges.at(-1)!)
  expect(degradedOf(late)).toBeNull()
  expect(await late.text()).toContain('"overloaded"')
  expect(cheap.exchanges).toHaveLength(count)
})

test('every fallback must be allowed and exist, whether it is needed or not', async () => {
  const path = `/accounts/${gateway.accountId}/keys`
  const { api_key } = await gateway.admin('POST', path, { name: 'k', models: ['fine', 'busy'] })
  const json = { model: 'fine', messages, tallygate: { degrade: { models: ['busy', 'small'] } } }
  const headers = { authorization: `Bearer ${api_key}` }
  const refused = await gateway.call('/v1/chat/completions', { json, headers })
  expect([refused.status, await refused.json()]).toMatchObject([
    403,
    { error: { code: 'model_not_allowed', param: 'tallygate.degrade.models[1]' } },
  ])
  const unknown = await ask('fine', { models: ['small', 'nobody'] })
  expect([unknown.status, await unknown.json()]).toMatchObject([
    404,
    { error: { code: 'model_not_found', param: 'tallygate.degrade.models[1]' } },
  ])
})

test('the dearest of what may serve is reserved', async () => {
  const path = `/accounts/${gateway.accountId}/keys`
  const tried = async (model: string, budget: number) => {
    const { api_key } = await gateway.admin('POST', path, { name: 'k', budget_micro_usd: budget })
    const json = { model, messages, max_tokens: 10, tallygate: { degrade: { models: ['fine'] } } }
    const headers = { authorization: `Bearer ${api_key}` }
    return (await gateway.call('/v1/chat/completions', { json, headers })).status
  }
  // The bound of the prompt is below 500 tokens: it fits at the price of `small`, not at that of `fine`.
  expect([await tried('small', 500), await tried('small', 1_500)]).toEqual([402, 200])
})

test.each([
  ['/v1/embeddings', { input: 'x' }, { models: ['small'] }],
  ['/v1/responses', { input: 'x' }, { models: ['small'] }],
  ['/v1/chat/completions', { messages }, { models: ['a', 'b', 'c', 'd', 'e'] }],
  ['/v1/chat/completions', { messages }, { max_tokens: 0 }],
  ['/v1/chat/completions', { messages }, { what: 1 }],
])('%s refuses what it cannot do: %j %j', async (operation, body, degrade) => {
  const json = { model: 'fine', ...body, tallygate: { degrade } }
  const response = await gateway.call(operation, { json })
  const { error } = (await response.json()) as { error: { code: string; param: string } }
  expect([response.status, error.code]).toEqual([400, 'invalid_request'])
  expect(error.param).toMatch(/^tallygate\.degrade/)
})

test('a fallback serves where no backend of the model does, or may be asked any more', async () => {
  const count = dear.exchanges.length
  const askDead = () => ask('dead', { models: ['small'] })
  for (let asked = 0; asked < 10; asked++)
    expect([(await askDead()).status, degradedOf(await askDead())]).toEqual([200, 'model=small'])
  expect(dear.exchanges.length - count).toBeLessThan(10)
})
