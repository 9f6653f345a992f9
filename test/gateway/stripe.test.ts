import { readFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WORKERD_PID_FILE } from '../../scripts/gateway.ts'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import {
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from '../support/scripted-upstream.ts'
import { waitUntil } from '../support/stack.ts'
import { type StripeFault, StripeStandIn } from '../support/stripe-stand-in.ts'

const faults: StripeFault[] = []
const stripe = new StripeStandIn(() => faults.shift() ?? 'none', Date.now)
/** Called when an event was taken and its answer is about to go out. */
let onTaken: () => void = () => {}

let upstream: ScriptedUpstream
let server: Server
let gateway: GatewayUnderTest

beforeAll(async () => {
  server = createServer(async (req, res) => {
    try {
      const headers = new Headers(req.headers as Record<string, string>)
      expect(`${req.method} ${req.url}`).toBe('POST /v1/billing/meter_events')
      const { status, text: body } = stripe.answer(headers, await text(req))
      onTaken()
      res.writeHead(status, { 'content-type': 'application/json' }).end(body)
    } catch {
      req.socket.resetAndDestroy()
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  upstream = await startScriptedUpstream({
    m: { script: ({ sendJson }) => sendJson(200, { choices: [], usage: usageOf(900, 7) }) },
  })
  gateway = await startGatewayUnderTest([{ id: 'scripted', url: upstream.url }], {
    STRIPE_SECRET_KEY: 'sk_test',
    STRIPE_METER_EVENT_NAME: 'micro_usd',
    STRIPE_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
  })
}, 60_000)

afterAll(async () => {
  await gateway.close()
  await upstream.close()
  server.close()
})

/** Uses something, and waits until D1 has it; what all records add up to. */
async function use(requestCount: number): Promise<number> {
  const ids = await Promise.all(
    Array.from({ length: requestCount }, async () => {
      const response = await gateway.call('/v1/completions', { json: { model: 'm', prompt: 'x' } })
      return response.headers.get('x-request-id')!
    }),
  )
  await gateway.settledUsage(ids)
  const usage = (await (await gateway.call('/v1/usage?limit=1000')).json()) as {
    data: readonly { fee_micro_usd: number }[]
  }
  return usage.data.reduce((sum, { fee_micro_usd }) => sum + fee_micro_usd, 0)
}

const run = () => gateway.admin('POST', '/stripe')
const account = () => gateway.admin('GET', `/accounts/${gateway.accountId}/stripe`)
const takenMicroUsd = () => stripe.taken.reduce((sum, each) => sum + each.valueMicroUsd, 0)

test('Stripe is told what the records add up to, whatever it answers, and once', async () => {
  const usedMicroUsd = await use(3)
  expect(await run()).toEqual({ outcome: 'ran', accepted_count: 0, failures: [] })
  await gateway.admin('POST', `/accounts/${gateway.accountId}/stripe`, { customer_id: 'cus_1' })
  faults.push('rate_limited', 'lost', 'fails', 'takes_and_fails', 'takes_and_cuts')
  const failedRuns = faults.length
  for (let count = 0; count < failedRuns; count++) {
    const { accepted_count, failures } = await run()
    expect([accepted_count, failures.length]).toEqual([0, 1])
  }
  expect(await account()).toMatchObject({ pending_micro_usd: usedMicroUsd, accepted_micro_usd: 0 })
  expect(await run()).toEqual({ outcome: 'ran', accepted_count: 1, failures: [] })
  expect(await run()).toMatchObject({ accepted_count: 0 })
  expect(stripe.taken).toMatchObject([{ customerId: 'cus_1', valueMicroUsd: usedMicroUsd }])
  expect(await account()).toEqual({
    object: 'stripe_account',
    customer_id: 'cus_1',
    accepted_micro_usd: usedMicroUsd,
    pending_micro_usd: 0,
    uncertain_micro_usd: 0,
    last_error: null,
  })
})

test('a gateway that is killed between the sending and the writing down sends the same again', async () => {
  const usedMicroUsd = await use(2)
  const pids = await readFile(join(gateway.stateDir, WORKERD_PID_FILE), 'utf8')
  onTaken = () => {
    onTaken = () => {}
    process.kill(Number(pids.trim().split('\n').at(-1)), 'SIGKILL')
  }
  await expect(run()).rejects.toThrow()
  const next = await waitUntil(
    () => run().catch(() => null),
    (answer) => answer !== null,
  )
  expect(next).toMatchObject({ accepted_count: 1, failures: [] })
  expect(takenMicroUsd()).toBe(usedMicroUsd)
  expect(await account()).toMatchObject({ accepted_micro_usd: usedMicroUsd, pending_micro_usd: 0 })
})

test('a customer id that is none is refused by its name', async () => {
  const path = `/accounts/${gateway.accountId}/stripe`
  expect(await gateway.admin('POST', path, { customer_id: 'acct_1' })).toMatchObject({
    error: { code: 'invalid_request', param: 'customer_id' },
  })
})
