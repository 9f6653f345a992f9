import { expect, it } from 'vitest'
import type { BatchState } from '../../worker/ledger/schema.ts'
import type { Batch } from '../../worker/proofs/batch-store.ts'
import { actionKey, planCycle } from '../../worker/proofs/plan-cycle.ts'

const digest = `0x${'1'.repeat(64)}` as const

function batchIn(state: BatchState, id: number): Batch {
  return {
    ...{ id, state, leafCount: 1, root: digest, payloadHash: digest, payloadBytes: 1 },
    ...{ plannedAtMs: 0, updatedAtMs: 0, daKind: null, daCommitment: null, chainId: null },
    ...{ contract: null, txHash: null, blockNumber: null, lastError: null },
  }
}

const keys = (state: Parameters<typeof planCycle>[0]) => planCycle(state).map(actionKey)

it('moves every batch on, but sends only the first that is not on chain', () => {
  const open = [
    ...[batchIn('da_posted', 4), batchIn('da_posted', 5), batchIn('submitted', 6)],
    ...[batchIn('archived', 7), batchIn('planned', 8)],
  ]
  const settled = new Set<string>()
  expect(keys({ open, chain: null, settled })).toEqual(['plan', 'submit 4', 'post 7', 'archive 8'])
  expect(keys({ open: open.slice(2), chain: null, settled })[1]).toBe('confirm 6')
})

it('does nothing twice that failed or waits', () => {
  const settled = new Set(['plan', 'post 1'])
  expect(keys({ open: [batchIn('archived', 1)], chain: null, settled })).toEqual([])
})

it('takes back what the chain has lost before it looks after the rest', () => {
  const chain = {
    head: { batchCount: 2, finalizedBlockNumber: 9 },
    lastAnchoredId: 3,
    confirmed: [batchIn('confirmed', 2), batchIn('confirmed', 3)],
  }
  expect(keys({ open: [], chain, settled: new Set() })).toEqual(['reopen', 'inspect 2', 'plan'])
})
