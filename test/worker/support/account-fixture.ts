import { evictDurableObject, runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { expect, vi } from 'vitest'
import { ZERO_DIGEST } from '../../../protocol/digest.ts'
import type { AdmitRequest, Settlement } from '../../../worker/access/account-contract.ts'
import {
  accountSettingsSchema,
  keySettingsSchema,
  memberSettingsSchema,
} from '../../../worker/access/account-settings.ts'
import { parseApiKey } from '../../../worker/access/api-key.ts'
import { createAccountId, createRequestId } from '../../../worker/ids.ts'
import { findUsageByRequestId } from '../../../worker/ledger/usage-store.ts'
import { WORKER_TEST_VARS } from '../../support/worker-test-vars.ts'

/** RESERVATION_TTL_MS of the tests. */
export const TTL_MS = 60_000

/**
 * Stops the clock in the far future: no alarm fires by itself, only when a test runs it. Returns
 * the stopped time.
 */
export function stopClock(): number {
  const nowMs = Date.UTC(2100, 0, 1)
  vi.useFakeTimers({ toFake: ['Date'], now: nowMs })
  return nowMs
}

/** Puts the stopped clock forward. */
export function passTime(durationMs: number): void {
  vi.setSystemTime(Date.now() + durationMs)
}

/** A key with its hash, as authentication hands it on. */
export interface TestKey {
  readonly keyId: string
  readonly key: string
  readonly keyHash: string
}

/** A new account with one key. Settings as the admin API takes them. */
export async function createTestAccount(accountSettings: object = {}, keySettings: object = {}) {
  const accountId = createAccountId()
  // A new stub each time: one that has thrown, or whose object was evicted, may stay broken.
  const stub = () => env.ACCOUNT.getByName(accountId)
  const addKey = async (settings: object = {}): Promise<TestKey> => {
    const created = await stub().createKey(keySettingsSchema.parse({ name: 'test', ...settings }))
    if (created.outcome !== 'created') throw new Error(created.outcome)
    const parsed = await parseApiKey(created.key, WORKER_TEST_VARS.KEY_CHECKSUM_SECRET)
    if (parsed.outcome !== 'key') throw new Error(parsed.outcome)
    return { keyId: created.keyId, key: created.key, keyHash: parsed.keyHash }
  }
  const addMember = async (settings: object = {}): Promise<string> => {
    const parsed = memberSettingsSchema.parse({ name: 'ada', ...settings })
    const created = await stub().createMember(parsed)
    if (created.outcome !== 'created') throw new Error(created.outcome)
    return created.member.memberId
  }
  await stub().configure(accountSettingsSchema.parse(accountSettings))
  return {
    accountId,
    stub,
    addKey,
    addMember,
    key: await addKey(keySettings),
    evict: () => evictDurableObject(stub()),
    runAlarm: () => runDurableObjectAlarm(stub()),
  }
}

export type TestAccount = Awaited<ReturnType<typeof createTestAccount>>

/** A micro-USD a prompt token and two a token of the answer. */
const TEST_PRICE = {
  version: 3,
  promptMicroUsdPerMillion: 1_000_000,
  cachedMicroUsdPerMillion: 500_000,
  completionMicroUsdPerMillion: 2_000_000,
}

/** A request that may cost 100 micro-USD. */
export function composeAdmit(key: TestKey, changes: Partial<AdmitRequest> = {}): AdmitRequest {
  return {
    requestId: createRequestId(),
    keyHash: key.keyHash,
    endpoint: 'chat.completions',
    model: 'smol',
    price: TEST_PRICE,
    splitVersion: 1,
    worstCaseMicroUsd: 100,
    worstCaseTokenCount: 60,
    backendId: 'local',
    ...changes,
  }
}

/** The end of a request that cost 50 micro-USD. */
export function composeSettlement(
  requestId: string,
  changes: Partial<Settlement> = {},
): Settlement {
  return {
    requestId,
    outcome: 'completed',
    promptTokens: 30,
    cachedTokens: 0,
    completionTokens: 10,
    modelDigest: `0x${'a'.repeat(64)}`,
    adapterDigest: ZERO_DIGEST,
    adapterOwner: null,
    attributionDigest: ZERO_DIGEST,
    contributors: [],
    promptHash: `0x${'b'.repeat(64)}`,
    outputHash: `0x${'c'.repeat(64)}`,
    ...changes,
  }
}

/** What a backend answers to `GET /tallygate/requests/{id}`. */
export function composeReport(requestId: string, state: string, completionTokens: number) {
  return {
    request_id: requestId,
    state,
    usage: { prompt_tokens: 30, completion_tokens: completionTokens, total_tokens: 0 },
    tallygate:
      state === 'running'
        ? null
        : {
            model_digest: `0x${'a'.repeat(64)}`,
            adapter_digest: `0x${'d'.repeat(64)}`,
            adapter_owner: `0x${'4'.repeat(40)}`,
            attribution_digest: ZERO_DIGEST,
            contributors: [
              { contributor: 'ada', payee: `0x${'5'.repeat(40)}`, weight_ppm: 1_000_000 },
            ],
            spans: [],
            prompt_hash: `0x${'b'.repeat(64)}`,
            output_hash: `0x${'c'.repeat(64)}`,
          },
  }
}

/** Takes the place of the network until mocks are restored. */
export function answerReports(answer: (requestId: string) => Response | Promise<Response>): void {
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (input) =>
    answer(String(input).split('/').at(-1) ?? ''),
  )
}

/** Makes every write to the ledger's D1 tables fail until the returned function is called. */
export async function takeLedgerDown(): Promise<() => Promise<void>> {
  await env.DB.exec('ALTER TABLE usage RENAME TO usage_away')
  return async () => {
    await env.DB.exec('ALTER TABLE usage_away RENAME TO usage')
  }
}

/** Admits one more request and returns its id. */
export async function admitOne(account: TestAccount, changes: Partial<AdmitRequest> = {}) {
  const request = composeAdmit(account.key, changes)
  const result = await account.stub().admit(request)
  expect(result.outcome).toBe('admitted')
  return request.requestId
}

/** A request's row in D1. */
export function findRow(account: TestAccount, requestId: string) {
  return findUsageByRequestId(env.DB, account.accountId, requestId)
}

/** How many rows D1 has of an account. */
export function countRows(account: TestAccount) {
  const query = 'SELECT count(*) AS count FROM usage WHERE account_id = ?'
  return env.DB.prepare(query).bind(account.accountId).first<number>('count')
}
