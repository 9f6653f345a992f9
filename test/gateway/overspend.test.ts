import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { WORKERD_PID_FILE } from '../../scripts/gateway.ts'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import { createRandom } from '../support/random.ts'
import {
  type Exchange,
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from '../support/scripted-upstream.ts'
import { waitUntil } from '../support/stack.ts'

const REQUEST_COUNT = 300
const BUDGET_MICRO_USD = 4_000
const ENDINGS = ['whole', 'error', 'dies at once', 'dies in mid-answer', 'hangs'] as const
type Ending = (typeof ENDINGS)[number]

let upstream: ScriptedUpstream
let gateway: GatewayUnderTest
/** Called when a request of this number has reached the upstream. */
let onArrival: (index: number) => void = () => {}
/** Called when a client is through with an answer. */
let onAnswer: () => void = () => {}

// A fresh gateway for each: a crowd of failures opens the breaker of the one that it met.
beforeEach(async () => {
  upstream = await startScriptedUpstream({ random: { script: answer, maxModelLength: 400 } })
  const backends = [{ id: 'scripted', url: upstream.url }]
  gateway = await startGatewayUnderTest(backends, {
    RESERVATION_TTL_MS: '2000',
    UPSTREAM_SILENCE_MS: '1000',
    UPSTREAM_ANSWER_MS: '1000',
  })
})

afterEach(async () => {
  await gateway.close()
  await upstream.close()
})

function answer(exchange: Exchange): void {
  const index = Number(exchange.body.user)
  const random = createRandom(index)
  const ending = ENDINGS[Math.floor(random() * 1.8 * ENDINGS.length)] ?? 'whole'
  const tokenCount = Math.floor(random() * 60)
  onArrival(index)
  if (ending === 'error') exchange.sendJson(500, {})
  else if (ending === 'dies at once') exchange.die()
  else if (exchange.body.stream) answerStream(exchange, ending, tokenCount)
  else if (ending === 'dies in mid-answer') exchange.die()
  else if (ending === 'whole') {
    exchange.sendJson(200, { choices: [], usage: usageOf(20, tokenCount) })
  }
}

function answerStream(exchange: Exchange, ending: Ending, tokenCount: number): void {
  exchange.startStream()
  for (let token = 0; token < tokenCount; token++) exchange.sendToken('x ')
  if (ending === 'dies in mid-answer') exchange.die()
  if (ending === 'whole') exchange.finishStream(usageOf(20, tokenCount))
}

interface Account {
  readonly id: string
  readonly api_key: string
}

async function createAccount(shards: number): Promise<Account> {
  const settings = { name: 'overspend', budget_micro_usd: BUDGET_MICRO_USD, shards }
  const account: Account = await gateway.admin('POST', '/accounts', settings)
  // By its first answer the gateway learns of the shards.
  await ask(account, 1, new AbortController())
  return account
}

/** One request of the crowd; some leave when the upstream has it, some when their answer begins. */
async function ask(account: Account, index: number, leaving: AbortController): Promise<number> {
  const random = createRandom(1_000 + index)
  try {
    const response = await gateway.call('/v1/chat/completions', {
      headers: { authorization: `Bearer ${account.api_key}` },
      signal: leaving.signal,
      json: {
        model: 'random',
        messages: [{ role: 'user', content: 'x'.repeat(random() * 100) }],
        max_tokens: 60 + Math.floor(random() * 60),
        stream: random() < 0.6,
        user: String(index),
      },
    })
    if (random() < 0.2) leaving.abort()
    else await response.text()
    if (response.ok) onAnswer()
    return response.status
  } catch {
    return 0 // it left, or was cut off
  }
}

/** All at once; those that leave early do so when the upstream has their request. */
function askAll(account: Account): Promise<number[]> {
  const leaving = Array.from({ length: REQUEST_COUNT }, () => new AbortController())
  onArrival = (index) => {
    if (index % 5 === 0) leaving[index]?.abort()
  }
  return Promise.all(leaving.map((controller, index) => ask(account, index, controller)))
}

/** Waits for the sweep, then compares the account's books with D1, and both with the budget. */
async function expectExactBooks({ id, api_key }: Account): Promise<void> {
  const state = await waitUntil(
    () => gateway.admin('GET', `/accounts/${id}`),
    (account) => account.open_reservation_count + account.outbox_count === 0,
    20_000,
  )
  const headers = { authorization: `Bearer ${api_key}` }
  const usage = await (await gateway.call('/v1/usage?limit=1000', { headers })).json()
  const records = (usage as { data: { request_id: string; fee_micro_usd: number }[] }).data
  const billed = records.reduce((sum, record) => sum + record.fee_micro_usd, 0)
  expect(new Set(records.map((record) => record.request_id)).size).toBe(records.length)
  expect(billed).toBe(state.budget.spent_micro_usd)
  expect(billed).toBeLessThanOrEqual(BUDGET_MICRO_USD)
  expect(billed).toBeGreaterThan(0)
  // What reached the upstream was admitted, and what was admitted is recorded.
  const recordedIds = new Set(records.map((record) => record.request_id))
  expect(seenIds(id).filter((requestId) => !recordedIds.has(requestId))).toEqual([])
}

function seenIds(accountId: string): string[] {
  return upstream.exchanges
    .filter(({ headers }) => headers['x-tallygate-tenant'] === accountId)
    .map(({ requestId }) => requestId)
}

test.each([1, 4])(
  'hundreds at once, leaving and failing at random, never spend more than the budget (%i shards)',
  async (shards) => {
    const account = await createAccount(shards)
    const statuses = await askAll(account)
    expect(statuses).toContain(200)
    expect(statuses).toContain(402)
    await expectExactBooks(account)
  },
)

test.each([1, 4])('nor when the gateway is killed among them (%i shards)', async (shards) => {
  const account = await createAccount(shards)
  const pids = await readFile(join(gateway.stateDir, WORKERD_PID_FILE), 'utf8')
  const killWorkerd = () => process.kill(Number(pids.trim().split('\n').at(-1)), 'SIGKILL')
  let answerCount = 0
  onAnswer = () => {
    answerCount += 1
    if (answerCount === 10) killWorkerd()
  }
  const asked = askAll(account)
  expect(await asked).toContain(0)
  await waitUntil(
    () =>
      gateway.call('/v1/models').then(
        ({ status }) => status,
        () => 0,
      ),
    (status) => status === 200,
  )
  await expectExactBooks(account)
})
