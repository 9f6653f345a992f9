import { applyD1Migrations, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { ZERO_DIGEST } from '../../../protocol/digest.ts'
import { CACHE_KEPT_MS, MAX_CACHED_ANSWER_BYTES } from '../../../worker/access/response-cache.ts'
import { ResponseCacheTable } from '../../../worker/access/response-cache-table.ts'
import {
  composeAdmit,
  composeSettlement,
  createTestAccount,
  findRow,
  passTime,
  stopClock,
  type TestAccount,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

const cache = { key: 'k', modelDigest: `0x${'a'.repeat(64)}`, adapterDigest: ZERO_DIGEST } as const

function composeAnswer(text: string) {
  return { contentType: 'application/json', body: new TextEncoder().encode(text) }
}

/** Admits a request that may be cached; computes it if it must be. */
async function ask(account: TestAccount, key = 'k', changes: object = {}) {
  const request = composeAdmit(account.key, { cache: { ...cache, key } })
  const result = await account.stub().admit(request)
  if (result.outcome !== 'admitted') return { request, result }
  const answer = composeAnswer(`{"id":"chatcmpl-${request.requestId.slice(4)}","n":"${key}"}`)
  const settlement = composeSettlement(request.requestId, { answer, ...changes })
  await account.stub().settle(settlement)
  return { request, result }
}

const outcomeOf = async (...asked: Parameters<typeof ask>) => (await ask(...asked)).result.outcome

test('the second answer is the first under its own id: recorded, free, and also when asked for again', async () => {
  const account = await createTestAccount()
  expect(await outcomeOf(account)).toBe('admitted')
  await account.evict()
  const { request, result } = await ask(account)
  const { requestId } = request
  if (result.outcome !== 'cached') throw new Error(result.outcome)
  const text = new TextDecoder().decode(result.answer.body)
  expect(text).toBe(`{"id":"chatcmpl-${requestId.slice(4)}","n":"k"}`)
  expect(await account.stub().admit(request)).toEqual(result)
  await account.runAlarm()
  expect(await findRow(account, requestId)).toMatchObject({
    outcome: 'cached',
    promptTokens: 0,
    completionTokens: 0,
    feeMicroUsd: 0,
    modelDigest: cache.modelDigest,
  })
  const { budget, openReservationCount } = (await account.stub().describeAccount())!
  expect(budget.spentMicroUsd + openReservationCount).toBe(50)
  expect(await account.stub().listMonths()).toMatchObject([{ requestCount: 2, feeMicroUsd: 50 }])
})

test('nobody else is answered from it, and no key that may not ask', async () => {
  const account = await createTestAccount({ requestsPerMinute: 3 })
  await ask(account)
  expect(await outcomeOf(await createTestAccount())).toBe('admitted')
  const bound = await account.addKey({ models: ['other'] })
  const revoked = await account.addKey()
  await account.stub().revokeKey(revoked.keyId)
  for (const [key, outcome] of [
    [bound, 'model_not_allowed'],
    [revoked, 'unknown_key'],
    [account.key, 'cached'],
    [account.key, 'cached'],
    [account.key, 'rate_limited'],
  ] as const) {
    expect(await account.stub().admit(composeAdmit(key, { cache }))).toMatchObject({ outcome })
  }
})

test('what has no answer, came from other weights or is too large is not kept', async () => {
  const account = await createTestAccount()
  for (const changes of [
    { answer: undefined, outcome: 'client_aborted' },
    { answer: undefined, outcome: 'upstream_failed' },
    { modelDigest: `0x${'f'.repeat(64)}` },
    { adapterDigest: `0x${'f'.repeat(64)}` },
    { answer: composeAnswer('x'.repeat(MAX_CACHED_ANSWER_BYTES + 1)) },
  ]) {
    expect(await outcomeOf(account, 'k', changes)).toBe('admitted')
  }
  await ask(account, 'k', { answer: composeAnswer('x'.repeat(MAX_CACHED_ANSWER_BYTES)) })
  expect(await outcomeOf(account)).toBe('cached')
})

test('an answer is given for a day, and then it is gone', async () => {
  const account = await createTestAccount()
  await ask(account)
  passTime(CACHE_KEPT_MS - 1)
  expect(await outcomeOf(account)).toBe('cached')
  passTime(1)
  expect(await outcomeOf(account)).toBe('admitted')
  expect(await outcomeOf(account)).toBe('cached')
  passTime(CACHE_KEPT_MS + 1)
  await account.runAlarm()
  expect(await countKept(account)).toBe(0)
})

test('the oldest of too many answers make room', async () => {
  const account = await createTestAccount()
  const found = await runInDurableObject(account.stub(), (_object, { storage }) => {
    const table = new ResponseCacheTable(storage.sql)
    const keep = (key: string, sizeBytes: number) => {
      const answer = { contentType: 'text/plain', body: new Uint8Array(sizeBytes) }
      table.keep(key, answer, { requestId: `req_${key}`, nowMs: Date.now() })
    }
    storage.transactionSync(() => {
      for (let index = 0; index <= 256; index++) keep(`large ${index}`, MAX_CACHED_ANSWER_BYTES)
    })
    const large = ['large 0', 'large 1'].map((key) => table.find(key, Date.now()) !== null)
    storage.transactionSync(() => {
      for (let index = 0; index <= 1_024; index++) keep(`small ${index}`, 1)
    })
    const small = ['large 256', 'small 0', 'small 1'].map(
      (key) => table.find(key, Date.now()) !== null,
    )
    return { large, small }
  })
  expect(found).toEqual({ large: [false, true], small: [false, false, true] })
  expect(await countKept(account)).toBe(1_024)
})

test('with an Idempotency-Key too: the answer that was given is given again', async () => {
  const account = await createTestAccount()
  await ask(account)
  const idempotency = { key: 'once', fingerprint: 'f' }
  const admit = () => account.stub().admit(composeAdmit(account.key, { cache, idempotency }))
  const first = await admit()
  if (first.outcome !== 'cached') throw new Error(first.outcome)
  expect(await admit()).toEqual({ outcome: 'replay', answer: first.answer })
})

function countKept(account: TestAccount): Promise<number> {
  return runInDurableObject(account.stub(), (_object, state) =>
    Number(state.storage.sql.exec('SELECT count(*) AS count FROM cached_answers').one().count),
  )
}
