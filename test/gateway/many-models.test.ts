import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { usageOf } from '../support/scripted-upstream.ts'

const IDS = Array.from({ length: 1000 }, (_, index) => `adapter-${index}`)

const message = { role: 'assistant', content: 'ok' }
const answer = {
  id: 'x',
  choices: [{ index: 0, message, finish_reason: 'stop' }],
  usage: usageOf(4, 1),
}
const model = {
  script: (exchange: { sendJson: (status: number, body: unknown) => void }) =>
    exchange.sendJson(200, answer),
  digest: `0x${'cd'.repeat(32)}`,
  maxModelLength: 100,
}

const { upstream, gateway } = useScriptedGateway(Object.fromEntries(IDS.map((id) => [id, model])))

test('a thousand models are listed, found and served by name', async () => {
  const list = await (await gateway.call('/v1/models')).json()
  expect((list as { data: { id: string }[] }).data.map(({ id }) => id)).toEqual(IDS)
  expect(await (await gateway.call('/v1/models/adapter-999')).json()).toMatchObject({
    id: 'adapter-999',
  })
  const messages = [{ role: 'user', content: 'Hi' }]
  for (const model of ['adapter-0', 'adapter-999']) {
    const json = { model, messages }
    const response = await gateway.call('/v1/chat/completions', { json })
    expect(response.status).toBe(200)
    expect(upstream.exchanges.at(-1)?.body.model).toBe(model)
  }
})
