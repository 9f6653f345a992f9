import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import type { PriceVersion } from '../../../worker/ledger/price-list.ts'
import { insertPrice, listPrices, readPriceList } from '../../../worker/ledger/price-store.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))

function publish(changes: Partial<PriceVersion>): Promise<PriceVersion> {
  return insertPrice(env.DB, {
    model: null,
    backendId: null,
    promptMicroUsdPerMillion: 1,
    cachedMicroUsdPerMillion: 1,
    completionMicroUsdPerMillion: 1,
    effectiveAtMs: 0,
    createdAtMs: 0,
    ...changes,
  })
}

test('versions count on from those of the configuration, and a list holds what is in force or will be', async () => {
  const gone = await publish({ model: 'm', effectiveAtMs: 1_000 })
  const corrected = await publish({ model: 'm', effectiveAtMs: 2_000 })
  const current = await publish({ model: 'm', effectiveAtMs: 2_000 })
  const planned = await publish({ model: 'm', effectiveAtMs: 9_000 })
  const others = [
    await publish({ effectiveAtMs: 1_000 }),
    await publish({ model: 'm', backendId: 'b', effectiveAtMs: 1_000 }),
  ]
  expect(gone.version).toBe(1_000_001)
  const list = [...(await readPriceList(env.DB, 5_000)).values()].flat()
  const versions = list.map(({ version }) => version).sort()
  expect(versions).toEqual([current, planned, ...others].map(({ version }) => version))
  expect(versions).not.toContain(corrected.version)
  expect(await listPrices(env.DB, { limit: 2, beforeVersion: planned.version })).toEqual([
    current,
    corrected,
  ])
})
