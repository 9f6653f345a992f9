import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ZERO_DIGEST } from '../../../protocol/digest.ts'
import { pickBackend } from '../../../worker/dispatch/pick-backend.ts'

const model = (id: string, parts = {}) => ({
  id,
  object: 'model' as const,
  created: 1,
  owned_by: 'x',
  ...parts,
})
const backend = (backendId: string, isReachable: boolean, ids: readonly string[]) => ({
  backendId,
  isReachable,
  models: ids.map((id) => model(id)),
})

test('only a reachable backend that lists the model is picked, and each can be', () => {
  const fleet = [
    backend('a', true, ['m']),
    backend('b', false, ['m']),
    backend('c', true, ['other']),
    backend('d', true, ['m', 'other']),
  ]
  const picked = new Set<string>()
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (chance) => {
      const pick = pickBackend(fleet, 'm', chance)
      if (pick.outcome === 'picked') picked.add(pick.target.backendId)
      return pick.outcome === 'picked'
    }),
    { seed: 7 },
  )
  expect([...picked].sort()).toEqual(['a', 'd'])
})

test('a model is unknown only if every backend was heard', () => {
  expect(pickBackend([backend('a', true, ['m'])], 'x', 0).outcome).toBe('unknown_model')
  expect(pickBackend([backend('a', true, ['m']), backend('b', false, [])], 'x', 0).outcome).toBe(
    'none_reachable',
  )
  expect(pickBackend([backend('a', false, ['m'])], 'm', 0).outcome).toBe('none_reachable')
})

test('an adapter is billed with its own digest and that of its base', () => {
  const base = `0x${'1'.repeat(64)}` as const
  const models = [model('b', { digest: base }), model('b:a', { parent: 'b', digest: ZERO_DIGEST })]
  const snapshots = [{ backendId: 'x', isReachable: true, models }]
  expect(pickBackend(snapshots, 'b:a', 0)).toMatchObject({
    target: { modelDigest: base, adapterDigest: ZERO_DIGEST },
  })
  expect(pickBackend(snapshots, 'b', 0)).toMatchObject({
    target: { modelDigest: base, adapterDigest: null },
  })
})
