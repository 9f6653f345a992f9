import fc from 'fast-check'
import { expect, test } from 'vitest'
import { digestMerge } from '../../../protocol/adapter-merge.ts'
import { ZERO_DIGEST } from '../../../protocol/digest.ts'
import { type BackendState, pickBackend } from '../../../worker/dispatch/pick-backend.ts'

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
const idle = { isDraining: false, blockedForMs: 0, inFlightCount: 0 }
const options = (states: Record<string, Partial<BackendState>> = {}, chance = 0) => ({
  stateOf: (backendId: string) => ({ ...idle, ...states[backendId] }),
  chance,
})
const chances = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
const order = (pick: ReturnType<typeof pickBackend>) =>
  pick.outcome === 'picked' ? pick.targets.map(({ backendId }) => backendId) : pick.outcome

test('only backends that take requests and list the model are picked, and each can be first', () => {
  const fleet = [
    backend('a', true, ['m']),
    backend('b', false, ['m']),
    backend('c', true, ['other']),
    backend('d', true, ['m', 'other']),
    backend('e', true, ['m']),
    backend('f', true, ['m']),
  ]
  const states = { e: { isDraining: true }, f: { blockedForMs: 1 } }
  const firsts = new Set<string>()
  fc.assert(
    fc.property(chances, (chance) => {
      const picked = order(pickBackend(fleet, 'm', options(states, chance)))
      firsts.add(picked[0]!)
      expect([...picked].sort()).toEqual(['a', 'd'])
    }),
    { seed: 7 },
  )
  expect([...firsts].sort()).toEqual(['a', 'd'])
})

test('of the two that are compared the less loaded goes first: the most loaded never', () => {
  const fleet = ['a', 'b', 'c', 'd'].map((id) => backend(id, true, ['m']))
  const states = { a: { inFlightCount: 9 }, b: { inFlightCount: 2 }, c: { inFlightCount: 5 } }
  const firsts = new Map<string, number>()
  for (let step = 0; step < 1_000; step++) {
    const [first] = order(pickBackend(fleet, 'm', options(states, step / 1_000)))
    firsts.set(first!, (firsts.get(first!) ?? 0) + 1)
  }
  expect(firsts.has('a')).toBe(false)
  expect(firsts.get('d')!).toBeGreaterThan(firsts.get('b')!)
  expect(firsts.get('b')!).toBeGreaterThan(firsts.get('c')!)
})

test('an adapter stays on its backend while others come and go, and adapters spread', () => {
  const list = (adapter: string, ids: readonly string[]) =>
    ids.map((backendId) => ({
      backendId,
      isReachable: true,
      models: [model('base'), model(adapter, { parent: 'base' })],
    }))
  const homes = new Map<string, number>()
  for (let index = 0; index < 300; index++) {
    const adapter = `base:adapter-${index}`
    const home = order(pickBackend(list(adapter, ['a', 'b', 'c', 'd']), adapter, options()))
    const withoutLast = order(
      pickBackend(
        list(
          adapter,
          ['a', 'b', 'c', 'd'].filter((id) => id !== home[3]),
        ),
        adapter,
        options({}, 0.9),
      ),
    )
    expect(withoutLast).toEqual(home.slice(0, 3))
    homes.set(home[0]!, (homes.get(home[0]!) ?? 0) + 1)
    const busy = { [home[0]!]: { inFlightCount: 3 } }
    const spilled = order(pickBackend(list(adapter, ['a', 'b', 'c', 'd']), adapter, options(busy)))
    expect(spilled[0]).toBe(home[1])
  }
  for (const count of homes.values()) expect(count).toBeGreaterThan(40)
})

test('other weights under the same name are no stand-in', () => {
  const fleet = ['1', '2', '1'].map((digit, index) => ({
    backendId: `b${index}`,
    isReachable: true,
    models: [model('m', { digest: `0x${digit.repeat(64)}` as const })],
  }))
  expect(order(pickBackend(fleet, 'm', options()))).toEqual(['b0', 'b2'])
})

test('a model is unknown only if every backend was heard', () => {
  expect(order(pickBackend([backend('a', true, ['m'])], 'x', options()))).toBe('unknown_model')
  expect(
    order(pickBackend([backend('a', true, ['m']), backend('b', false, [])], 'x', options())),
  ).toBe('none_reachable')
  expect(order(pickBackend([backend('a', false, ['m'])], 'm', options()))).toBe('none_reachable')
  const draining = options({ a: { isDraining: true } })
  expect(order(pickBackend([backend('a', true, ['m'])], 'm', draining))).toBe('none_reachable')
})

test('when all are blocked, the first that frees says when to come back', () => {
  const fleet = [backend('a', true, ['m']), backend('b', true, ['m'])]
  const states = { a: { blockedForMs: 700 }, b: { blockedForMs: 300 } }
  expect(pickBackend(fleet, 'm', options(states))).toEqual({
    outcome: 'all_blocked',
    retryAfterMs: 300,
  })
})

test('an adapter is billed with its own digest and that of its base', () => {
  const base = `0x${'1'.repeat(64)}` as const
  const models = [model('b', { digest: base }), model('b:a', { parent: 'b', digest: ZERO_DIGEST })]
  const snapshots = [{ backendId: 'x', isReachable: true, models }]
  expect(pickBackend(snapshots, 'b:a', options())).toMatchObject({
    targets: [{ modelDigest: base, adapterDigest: ZERO_DIGEST }],
  })
  expect(pickBackend(snapshots, 'b', options())).toMatchObject({
    targets: [{ modelDigest: base, adapterDigest: null }],
  })
})

test('a merge goes to backends that have all its adapters for the model, with the same contents', () => {
  const digest = (byte: string) => `0x${byte.repeat(32)}` as const
  const fleetOf = (...lists: readonly (readonly [string, Record<string, string>])[]) =>
    lists.map(([backendId, adapters]) => ({
      backendId,
      isReachable: true,
      models: [
        model('m', { digest: digest('aa') }),
        model('other', { digest: digest('bb') }),
        ...Object.entries(adapters).map(([id, byte]) =>
          model(id, { parent: id === 'c' ? 'other' : 'm', digest: digest(byte) }),
        ),
      ],
    }))
  const merge = {
    method: 'linear' as const,
    densityPpm: null,
    members: [
      { id: 'b', weightPpm: 500_000 },
      { id: 'a', weightPpm: 1_000_000 },
    ],
  }
  const pick = (fleet: ReturnType<typeof fleetOf>, ids = ['b', 'a'], modelId = 'm') =>
    pickBackend(fleet, modelId, {
      ...options(),
      merge: { ...merge, members: merge.members.map((each, i) => ({ ...each, id: ids[i]! })) },
    })
  const fleet = fleetOf(
    ['one', { a: '11', b: '22', c: '33' }],
    ['two', { a: '11', b: '22' }],
    ['half', { a: '11' }],
  )
  const picked = pick(fleet)
  expect([...order(picked)].sort()).toEqual(['one', 'two'])
  const made = {
    ...merge,
    members: [
      { digest: digest('11'), owner: null, weightPpm: 1_000_000 },
      { digest: digest('22'), owner: null, weightPpm: 500_000 },
    ],
  }
  expect(picked).toMatchObject({
    targets: [{ modelDigest: digest('aa'), adapterDigest: digestMerge(made), merge: made }, {}],
  })
  expect(
    order(pick(fleetOf(['one', { a: '11', b: '22' }], ['two', { a: '11', b: '99' }]))),
  ).toHaveLength(1)
  expect(pick(fleet, ['b', 'nobody'])).toEqual({ outcome: 'unknown_adapter', index: 1 })
  expect(pick(fleet, ['c', 'a'])).toEqual({ outcome: 'unknown_adapter', index: 0 })
  expect(pick(fleet, ['b', 'a'], 'nobody')).toEqual({ outcome: 'unknown_model' })
  expect(pick(fleet, ['b', 'b'], 'a')).toEqual({ outcome: 'no_base_model' })
  const silent = [...fleet, { ...fleet[0]!, backendId: 'silent', isReachable: false, models: [] }]
  expect(pick(silent, ['b', 'nobody'])).toEqual({ outcome: 'none_reachable' })
})
