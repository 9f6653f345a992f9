import { expect, test, vi } from 'vitest'
import type {
  AdmitRequest,
  LimitSnapshot,
  Settlement,
} from '../../../worker/access/account-contract.ts'
import { createAccountClient } from '../../../worker/dispatch/account-client.ts'

// What an object's broken stub does cannot be brought about at will: these stubs break on purpose.
test('a settlement is repeated on new stubs until one takes it, and then no more', async () => {
  let stubCount = 0
  const client = createAccountClient({
    shard: 0,
    noteShards: () => {},
    createStub: () => {
      stubCount += 1
      const number = stubCount
      return {
        admit: () => Promise.reject(new Error('unused')),
        admitShare: () => Promise.reject(new Error('unused')),
        renew: () => Promise.reject(new Error('unused')),
        reroute: () => Promise.reject(new Error('unused')),
        settle: () =>
          number < 3
            ? Promise.reject(new Error('Network connection lost.'))
            : Promise.resolve({ outcome: 'settled', feeMicroUsd: number }),
      }
    },
    renewEveryMs: 60_000,
    log: () => {},
  })
  const settlement = { requestId: 'req_1' } as Settlement // the stubs read nothing of it
  expect(await client.settle(settlement)).toEqual({ outcome: 'settled', feeMicroUsd: 3 })
  expect(stubCount).toBe(3)
})

test('a reservation is renewed from its admission to its settlement', async () => {
  vi.useFakeTimers()
  const renewed: string[] = []
  const client = createAccountClient({
    shard: 0,
    noteShards: () => {},
    createStub: () => ({
      admitShare: () => Promise.reject(new Error('unused')),
      // The client reads nothing of the limits.
      admit: () =>
        Promise.resolve({ outcome: 'admitted', limits: {} as LimitSnapshot, tier: 'standard' }),
      reroute: () => Promise.resolve(true),
      renew: (requestId) => Promise.resolve(renewed.push(requestId) > 0),
      settle: () => Promise.resolve({ outcome: 'settled', feeMicroUsd: 1 }),
    }),
    renewEveryMs: 1_000,
    log: () => {},
  })
  await client.admit({ requestId: 'req_1' } as AdmitRequest) // the stubs read nothing of it
  await vi.advanceTimersByTimeAsync(3_500)
  expect(renewed).toEqual(['req_1', 'req_1', 'req_1'])
  await client.settle({ requestId: 'req_1' } as Settlement)
  await vi.advanceTimersByTimeAsync(5_000)
  expect(renewed).toHaveLength(3)
  vi.useRealTimers()
})
