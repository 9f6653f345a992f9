import { applyD1Migrations, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { expect, it } from 'vitest'
import type { Env } from '../../../worker/bindings.ts'
import { AnchorObject } from '../../../worker/proofs/anchor-object.ts'
import { ArchiveStore } from '../../../worker/proofs/archive-store.ts'
import { BatchStore } from '../../../worker/proofs/batch-store.ts'
import { createRecord, insertRecords } from '../../support/usage-records.ts'

/** A chain and a DA proxy where nothing listens. */
const VARS = {
  CHAIN_RPC_URL: 'http://127.0.0.1:9',
  DA_URL: 'http://127.0.0.1:9',
  ANCHOR_ADDRESS: `0x${'c'.repeat(40)}`,
  ANCHOR_PRIVATE_KEY: `0x${'7'.repeat(64)}`,
  BATCH_MAX_AGE_MS: '0',
}

/** Runs what is given with an object that has these variables. */
function withObject<Result>(
  vars: object,
  run: (object: AnchorObject) => Promise<Result>,
): Promise<Result> {
  return runInDurableObject(env.ANCHOR.getByName('anchor'), (_instance, state) =>
    run(new AnchorObject(state, { ...env, ...vars } as Env)),
  )
}

it('waits, and says for what, while the chain is not configured', async () => {
  const { CHAIN_RPC_URL, ...rest } = VARS
  expect(await withObject(rest, (object) => object.runCycle())).toEqual({
    ...{ outcome: 'not_configured', missing: ['CHAIN_RPC_URL'] },
  })
})

it('runs one cycle at a time, archives in workerd, and loses nothing with chain and DA down', async () => {
  await applyD1Migrations(env.DB, env.MIGRATIONS)
  const record = createRecord({ completedAtMs: Date.now() })
  await insertRecords(env.DB, [record])
  const [first, second, later] = await withObject(VARS, async (object) => {
    const both = await Promise.all([object.runCycle(), object.runCycle()])
    return [...both, await object.runCycle()]
  })
  expect(first).toMatchObject({ outcome: 'ran', oldestUnanchoredAtMs: record.completedAtMs })
  expect(second).toEqual({ outcome: 'busy' })
  expect(later?.outcome).toBe('ran')
  const [batch] = await new BatchStore(env.DB).listBatches(1)
  expect(batch).toMatchObject({
    state: 'archived',
    lastError: expect.stringContaining('the DA proxy cannot be reached'),
  })
  expect(await new ArchiveStore(env.ARCHIVE).get(batch!.payloadHash)).not.toBeNull()
})
