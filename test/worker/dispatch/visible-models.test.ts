import { expect, test } from 'vitest'
import type { BackendModel } from '../../../protocol/backend.ts'
import { configSchema } from '../../../worker/config-schema.ts'
import { findTargets } from '../../../worker/dispatch/find-targets.ts'
import { createFleet } from '../../../worker/dispatch/fleet.ts'
import { partByOwner, showTo } from '../../../worker/dispatch/visible-models.ts'
import { WORKER_TEST_VARS } from '../../support/worker-test-vars.ts'

const model = (id: string, parts: Partial<BackendModel> = {}): BackendModel => ({
  id,
  object: 'model',
  created: 1,
  owned_by: 'x',
  ...parts,
})
const own = (tenant: string, id: string) => model(id, { tenant, parent: 'base' })
const listed = [model('base'), model('poet', { parent: 'base' }), own('a', 'poet'), own('b', 'x')]
const config = configSchema.parse(WORKER_TEST_VARS)
const snapshot = { backendId: config.BACKENDS[0]!.id, isReachable: true, ...partByOwner(listed) }

const idsFor = (accountId: string) =>
  showTo(accountId, [snapshot])[0]?.models.map(({ id, tenant }) => `${tenant ?? ''}/${id}`)

test('an account sees what everyone does and its own, which hides what has its name', () => {
  expect(snapshot.models.map(({ id }) => id)).toEqual(['base', 'poet'])
  expect(idsFor('a')).toEqual(['/base', 'a/poet'])
  expect(idsFor('b')).toEqual(['/base', '/poet', 'b/x'])
  expect(idsFor('c')).toEqual(['/base', '/poet'])
})

test('what another backend shares under the name of an account’s own adapter is not mixed with it', () => {
  const other = { backendId: 'other', isReachable: true, models: [model('poet')] }
  expect(showTo('a', [snapshot, other]).map(({ models }) => models.length)).toEqual([2, 0])
})

test('an account’s adapter costs what its base model costs, whatever its name costs elsewhere', async () => {
  const version = (name: string, version: number) => ({
    model: name,
    backendId: null,
    version,
    promptMicroUsdPerMillion: version,
    cachedMicroUsdPerMillion: version,
    completionMicroUsdPerMillion: version,
    effectiveAtMs: 0,
    createdAtMs: 0,
  })
  const read = async () => [snapshot]
  const services = {
    config,
    fleet: createFleet(),
    catalogue: { read, readFresh: read, refresh: read },
    prices: {
      read: async () =>
        new Map([
          ['poet', [version('poet', 1_000_001)]],
          ['base', [version('base', 1_000_002)]],
        ]),
    },
  }
  const priceFor = async (accountId: string) => {
    const request = { model: 'poet', merge: null }
    const [{ tariff }] = await findTargets(services, request, () => {}, { accountId })
    return tariff.price.version
  }
  expect(await priceFor('b')).toBe(1_000_001)
  expect(await priceFor('a')).toBe(1_000_002)
})
