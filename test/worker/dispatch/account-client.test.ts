import { expect, test } from 'vitest'
import type { Settlement } from '../../../worker/access/account-contract.ts'
import { createAccountClient } from '../../../worker/dispatch/account-client.ts'

// What an object's broken stub does cannot be brought about at will: these stubs break on purpose.
test('a settlement is repeated on new stubs until one takes it, and then no more', async () => {
  let stubCount = 0
  const client = createAccountClient({
    createStub: () => {
      stubCount += 1
      const number = stubCount
      return {
        admit: () => Promise.reject(new Error('unused')),
        renew: () => Promise.reject(new Error('unused')),
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
