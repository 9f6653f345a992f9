import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { usageOf } from '../support/scripted-upstream.ts'

const { upstream, gateway } = useScriptedGateway({
  base: { script: (exchange) => exchange.sendJson(200, { choices: [], usage: usageOf(4, 1) }) },
})

/** Makes every read and write of D1 fail until it is called off: another process holds the file. */
async function lockLedger(): Promise<() => void> {
  const folder = join(gateway.stateDir, 'd1', 'miniflare-D1DatabaseObject')
  const file = readdirSync(folder).find((name) => /^[0-9a-f]{64}\.sqlite$/.test(name))
  const database = new DatabaseSync(join(folder, String(file)), { timeout: 10_000 })
  database.exec('BEGIN EXCLUSIVE')
  return () => {
    database.exec('ROLLBACK')
    database.close()
  }
}

const ask = () =>
  gateway.call('/v1/chat/completions', {
    json: { model: 'base', messages: [{ role: 'user', content: 'x' }] },
  })

test('with D1 down requests are served, and their records kept until it is back', async () => {
  expect((await ask()).status).toBe(200)
  await gateway.settledUsage([])
  const unlock = await lockLedger()
  try {
    const answers = await Promise.all(Array.from({ length: 20 }, ask))
    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200))
    const refused = await gateway.call('/v1/usage')
    expect([refused.status, await refused.json()]).toMatchObject([
      503,
      { error: { code: 'ledger_unavailable' } },
    ])
    expect(refused.headers.get('retry-after')).toBe('5')
    await expect
      .poll(() => gateway.admin('GET', `/accounts/${gateway.accountId}`))
      .toMatchObject({
        outbox_count: 20,
        open_reservation_count: 0,
        last_alarm_error: expect.stringContaining('D1_ERROR'),
      })
    expect((await gateway.call('/v1/key')).status).toBe(200)
  } finally {
    unlock()
  }
  const lines = await gateway.settledUsage(upstream.exchanges.map(({ requestId }) => requestId))
  expect(lines).toHaveLength(21)
  expect(await gateway.admin('GET', `/accounts/${gateway.accountId}`)).toMatchObject({
    outbox_count: 0,
    last_alarm_error: null,
  })
})
