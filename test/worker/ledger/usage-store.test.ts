import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { ZERO_DIGEST } from '../../../protocol/digest.ts'
import { createAccountId, createRequestId } from '../../../worker/ids.ts'
import type { UsageRecord } from '../../../worker/ledger/usage-record.ts'
import {
  findUsage,
  findUsageByRequestId,
  type UsageQuery,
  usageCursorSchema,
  writeLedger,
} from '../../../worker/ledger/usage-store.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))

const DAY_MS = 24 * 3_600_000

function composeRecord(accountId: string, changes: Partial<UsageRecord> = {}): UsageRecord {
  return {
    requestId: createRequestId(),
    accountId,
    keyId: 'key_1',
    endpoint: 'completions',
    model: 'smol',
    backendId: 'local',
    outcome: 'completed',
    admittedAtMs: 0,
    completedAtMs: 1_000,
    promptTokens: 10,
    cachedTokens: 4,
    completionTokens: 2,
    feeMicroUsd: 7,
    priceVersion: 1,
    splitVersion: 1,
    modelDigest: ZERO_DIGEST,
    adapterDigest: ZERO_DIGEST,
    merge: null,
    attributionDigest: ZERO_DIGEST,
    credits: [
      { payee: `0x${'1'.repeat(40)}`, role: 'platform', ppm: 1_000_000, amountMicroUsd: 7 },
    ],
    accountCommitment: ZERO_DIGEST,
    contentSalt: ZERO_DIGEST,
    promptHash: ZERO_DIGEST,
    outputHash: ZERO_DIGEST,
    sketchHash: ZERO_DIGEST,
    ...changes,
  }
}

const write = (records: readonly UsageRecord[]) =>
  writeLedger(
    env.DB,
    records.map((record) => ({ kind: 'usage', record })),
  )

function find(accountId: string, changes: Partial<UsageQuery> = {}) {
  return findUsage(env.DB, {
    accountId,
    fromMs: 0,
    toMs: Number.MAX_SAFE_INTEGER,
    group: null,
    cursor: null,
    limit: 100,
    ...changes,
  })
}

describe('writeLedger', () => {
  it('takes a whole outbox at once, and the same again, and adds nothing by it', async () => {
    const accountId = createAccountId()
    const records = Array.from({ length: 200 }, () => composeRecord(accountId))
    await write(records)
    await write(records.slice(0, 7))
    await write([...records, composeRecord(accountId)])
    const { sums } = await find(accountId)
    expect(sums).toMatchObject([{ requestCount: 201, feeMicroUsd: 1_407 }])
  })

  it('never changes a record that is there', async () => {
    const record = composeRecord(createAccountId())
    await write([record])
    await write([{ ...record, feeMicroUsd: 9_999 }])
    expect(await findUsageByRequestId(env.DB, record.accountId, record.requestId)).toEqual({
      ...record,
      batchId: null,
      leafIndex: null,
      leafHash: null,
    })
  })

  it('writes all of a batch or nothing', async () => {
    const accountId = createAccountId()
    // What the type forbids: a column that may not be null.
    const broken = { ...composeRecord(accountId), model: null } as unknown as UsageRecord
    const batch = [...Array.from({ length: 8 }, () => composeRecord(accountId)), broken]
    await expect(write(batch)).rejects.toThrow()
    expect((await find(accountId)).records).toEqual([])
  })

  it('accepts an empty outbox', async () => {
    await writeLedger(env.DB, [])
  })

  it('keeps a revocation that an older message about the key does not know of', async () => {
    const key = {
      id: 'key_mirror',
      accountId: 'acct_mirror',
      name: 'test',
      start: 'tg_m_abcd',
      createdAtMs: 1,
      revokedAtMs: null,
      memberId: 'mem_mirror',
    }
    const send = (revokedAtMs: number | null) =>
      writeLedger(env.DB, [{ kind: 'key', key: { ...key, revokedAtMs } }])
    await send(null)
    await send(5)
    await send(null)
    const row = await env.DB.prepare("SELECT * FROM api_keys WHERE id = 'key_mirror'").first()
    expect(row).toMatchObject({ name: 'test', revoked_at_ms: 5, member_id: 'mem_mirror' })
  })
})

describe('findUsage', () => {
  it('pages through every record once, newest first, also where times are equal', async () => {
    const accountId = createAccountId()
    const records = Array.from({ length: 25 }, (_, index) =>
      composeRecord(accountId, { completedAtMs: 1_000 + Math.floor(index / 10) }),
    )
    await write(records)
    const seen: string[] = []
    let cursor: string | null = null
    do {
      const page = await find(accountId, { cursor, limit: 4 })
      seen.push(...page.records.map(({ requestId }) => requestId))
      expect(page.sums[0]?.requestCount).toBe(25)
      cursor = page.nextCursor
      if (cursor !== null) usageCursorSchema.parse(cursor)
    } while (cursor !== null)
    const expected = records.toSorted(
      (a, b) => b.completedAtMs - a.completedAtMs || (a.requestId < b.requestId ? 1 : -1),
    )
    expect(seen).toEqual(expected.map(({ requestId }) => requestId))
  })

  it('has no further page after one that is exactly full', async () => {
    const accountId = createAccountId()
    await write([composeRecord(accountId), composeRecord(accountId)])
    expect(await find(accountId, { limit: 2 })).toMatchObject({ nextCursor: null })
  })

  it('counts from the first millisecond of a period up to, not with, its last', async () => {
    const accountId = createAccountId()
    await write([1, 2, 3, 4].map((completedAtMs) => composeRecord(accountId, { completedAtMs })))
    const { records } = await find(accountId, { fromMs: 2, toMs: 4 })
    expect(records.map(({ completedAtMs }) => completedAtMs)).toEqual([3, 2])
  })

  it.each<[UsageQuery['group'], [string | null, number][]]>([
    [null, [[null, 4]]],
    [
      'key',
      [
        ['key_1', 3],
        ['key_2', 1],
      ],
    ],
    [
      'model',
      [
        ['smol', 2],
        ['smol:poet', 2],
      ],
    ],
    [
      'day',
      [
        ['1970-01-01', 3],
        ['1970-01-02', 1],
      ],
    ],
  ])('sums by %s', async (group, expected) => {
    const accountId = createAccountId()
    await write([
      composeRecord(accountId),
      composeRecord(accountId, { keyId: 'key_2' }),
      composeRecord(accountId, { model: 'smol:poet', completedAtMs: DAY_MS - 1 }),
      composeRecord(accountId, { model: 'smol:poet', completedAtMs: DAY_MS }),
    ])
    const { sums } = await find(accountId, { group })
    expect(sums).toEqual(
      expected.map(([name, requestCount]) => ({
        group: name,
        requestCount,
        promptTokens: 10 * requestCount,
        cachedTokens: 4 * requestCount,
        completionTokens: 2 * requestCount,
        feeMicroUsd: 7 * requestCount,
      })),
    )
  })

  it('shows an account nothing of another', async () => {
    const record = composeRecord(createAccountId())
    await write([record])
    const other = createAccountId()
    expect(await find(other)).toMatchObject({ records: [], nextCursor: null })
    expect(await findUsageByRequestId(env.DB, other, record.requestId)).toBeNull()
  })
})
