import type { D1Database } from '@cloudflare/workers-types'
import { drizzle } from 'drizzle-orm/d1'
import type { Digest } from '../../protocol/digest.ts'
import { SPLIT_RULES, splitFee } from '../../protocol/fee-split.ts'
import { commitAccount } from '../../protocol/usage-leaf.ts'
import { createRequestId, createSalt } from '../../worker/ids.ts'
import { usage } from '../../worker/ledger/schema.ts'
import type { UsageRecord } from '../../worker/ledger/usage-record.ts'

const ACCOUNT_ID = 'acct_test'
export const ACCOUNT_SALT: Digest = `0x${'5a'.repeat(32)}`

let count = 0

/** A settled request with a fresh id. */
export function createRecord(changes: Partial<UsageRecord> = {}): UsageRecord {
  count += 1
  const feeMicroUsd = changes.feeMicroUsd ?? 7_403
  return {
    requestId: createRequestId(),
    accountId: ACCOUNT_ID,
    keyId: 'key_test',
    endpoint: 'chat.completions',
    model: 'tiny:style',
    backendId: 'local',
    outcome: 'completed',
    admittedAtMs: 1_799_999_000_000 + count,
    completedAtMs: 1_799_999_000_500 + count,
    promptTokens: 812,
    cachedTokens: 512,
    completionTokens: 300,
    feeMicroUsd,
    priceVersion: 1,
    splitVersion: 1,
    modelDigest: digestOf('b0'),
    adapterDigest: digestOf('c0'),
    merge: null,
    attributionDigest: digestOf('d0'),
    credits: splitFee({
      feeMicroUsd,
      rule: SPLIT_RULES[1]!,
      payees: {
        platform: `0x${'11'.repeat(20)}`,
        backend: `0x${'22'.repeat(20)}`,
        modelOwner: `0x${'33'.repeat(20)}`,
        adapterOwner: `0x${'44'.repeat(20)}`,
      },
      contributors: [
        { payee: `0x${'55'.repeat(20)}`, weightPpm: 700_001 },
        { payee: `0x${'66'.repeat(20)}`, weightPpm: 299_999 },
      ],
    }),
    accountCommitment: commitAccount(ACCOUNT_ID, ACCOUNT_SALT),
    contentSalt: createSalt(),
    promptHash: digestOf('e1'),
    outputHash: digestOf('e2'),
    sketchHash: digestOf('00'),
    ...changes,
  }
}

/** Writes the records as the account object's outbox does. */
export async function insertRecords(
  database: D1Database,
  records: readonly UsageRecord[],
): Promise<void> {
  const db = drizzle(database)
  for (const record of records) await db.insert(usage).values(record)
}

function digestOf(byte: string): Digest {
  return `0x${byte.repeat(32)}`
}
