import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { type Exchange, usageOf } from '../support/scripted-upstream.ts'

const messages = [{ role: 'user', content: 'hi' }]
/** Changed by a test: other weights under the same name. */
const reloaded = { script: answer, digest: `0x${'a'.repeat(64)}` }

function answer(exchange: Exchange) {
  const id = `chatcmpl-${exchange.requestId.slice(4)}`
  if (exchange.body.user === 'dies') {
    exchange.startStream()
    exchange.sendToken('half')
    return exchange.die()
  }
  if (exchange.body.stream) {
    exchange.startStream()
    exchange.sendFrame({ id, choices: [{ index: 0, delta: { content: 'hello' } }] })
    return exchange.finishStream(usageOf(7, 2))
  }
  const choices = [{ index: 0, message: { role: 'assistant', content: 'hello' } }]
  exchange.sendJson(200, { id, choices, usage: usageOf(7, 2) })
}

const { upstream, gateway } = useScriptedGateway({
  own: { script: answer, digest: `0x${'a'.repeat(64)}` },
  reloaded,
  foreign: { script: answer },
})

async function ask(body: object, headers: Record<string, string> = {}) {
  const response = await gateway.call('/v1/chat/completions', {
    json: { model: 'own', messages, temperature: 0, tallygate: { cache: true }, ...body },
    headers,
  })
  const text = await response.text().catch(() => '')
  const requestId = response.headers.get('x-request-id') ?? ''
  return {
    text,
    requestId,
    // As it would be under any id; blanks go out while an upstream is slow.
    nameless: text.replaceAll(requestId.slice(4), '').replaceAll(/^:\n\n|^ +/gm, ''),
    cache: response.headers.get('x-tallygate-cache'),
    contentType: response.headers.get('content-type'),
    status: response.status,
  }
}

test('an answer is given again, whole or as a stream, under an id of its own and for nothing', async () => {
  for (const body of [{}, { stream: true, stream_options: { include_usage: true } }]) {
    const first = await ask(body)
    const before = upstream.exchanges.length
    const second = await ask({ ...body, messages: [{ content: 'hi', role: 'user' }] })
    expect([first.cache, second.cache]).toEqual(['miss', 'hit'])
    expect(second).toMatchObject({ nameless: first.nameless, contentType: first.contentType })
    expect(second.text).toContain(`chatcmpl-${second.requestId.slice(4)}`)
    expect(upstream.exchanges.length).toBe(before)
    const records = await gateway.settledUsage([second.requestId])
    expect(records).toMatchObject([{ outcome: 'cached', fee_micro_usd: 0, completion_tokens: 0 }])
    const receipt = await gateway.call(`/v1/receipts/${second.requestId}`)
    expect(await receipt.json()).toMatchObject({
      error: { message: 'The request was not billed, so there is nothing to prove.' },
    })
  }
})

test('without asking for it, and left to chance, nothing is given again', async () => {
  const plain = { tallygate: {}, user: 'plain' }
  expect([(await ask(plain)).cache, (await ask(plain)).cache]).toEqual([null, null])
  const refused = await ask({ temperature: 1 })
  expect(refused.status).toBe(400)
  expect(JSON.parse(refused.text).error).toMatchObject({
    code: 'invalid_request',
    param: 'tallygate.cache',
  })
})

test('another account’s answers, those cut short and those of nameless weights are none', async () => {
  const user = 'mine'
  await ask({ user })
  const other = await gateway.admin('POST', '/accounts', { name: 'other' })
  const headers = { authorization: `Bearer ${other.api_key}` }
  expect((await ask({ user }, headers)).cache).toBe('miss')
  for (const body of [{ user: 'dies', stream: true }, { model: 'foreign' }]) {
    expect([(await ask(body)).cache, (await ask(body)).cache]).toEqual(['miss', 'miss'])
  }
})

test('weights that were changed under their name are asked anew', async () => {
  const body = { model: 'reloaded' }
  expect([(await ask(body)).cache, (await ask(body)).cache]).toEqual(['miss', 'hit'])
  reloaded.digest = `0x${'b'.repeat(64)}`
  await expect.poll(async () => (await ask(body)).cache, { timeout: 5_000 }).toBe('miss')
  expect((await ask(body)).cache).toBe('hit')
})
