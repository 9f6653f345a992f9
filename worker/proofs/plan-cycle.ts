import type { ChainHead } from './anchor-client.ts'
import type { Batch } from './batch-store.ts'

/** One step of one batch, or of the list of batches. Each is durable before the next is planned. */
export type CycleAction =
  /** Cut a batch from the records that are in none. */
  | { readonly kind: 'plan' }
  /** Take back what the chain does not have any more. */
  | { readonly kind: 'reopen'; readonly aboveId: number }
  /** Write the payload to the archive. */
  | { readonly kind: 'archive'; readonly batch: Batch }
  /** Post the payload to the DA layer. */
  | { readonly kind: 'post'; readonly batch: Batch }
  /** Send the anchoring transaction. */
  | { readonly kind: 'submit'; readonly batch: Batch }
  /** Look for the anchor; send again what got lost or has been pending for too long. */
  | { readonly kind: 'confirm'; readonly batch: Batch }
  /** Look whether a confirmed anchor is where it was, and whether its block is final. */
  | {
      readonly kind: 'inspect'
      readonly batch: Batch
      readonly finalizedBlockNumber: number | null
    }

export interface CycleState {
  /** Batches that are not on chain yet, by ascending id. */
  readonly open: readonly Batch[]
  /** Null once it was acted upon in this cycle, and while the chain cannot be reached. */
  readonly chain: {
    readonly head: ChainHead
    /** The last batch that is on chain by our book; 0 for none. */
    readonly lastAnchoredId: number
    /** Confirmed batches that may have become final or may have moved. */
    readonly confirmed: readonly Batch[]
  } | null
  /** Actions (by `actionKey`) that failed or wait, not to be tried again in this cycle. */
  readonly settled: ReadonlySet<string>
}

/**
 * What can be done now, in order. Batches move on independently, but the contract takes them one
 * after the other: only the first open one may be sent, which also keeps one transaction in flight.
 */
export function planCycle({ open, chain, settled }: CycleState): CycleAction[] {
  const actions: CycleAction[] = []
  if (chain !== null) {
    const { batchCount, finalizedBlockNumber } = chain.head
    if (chain.lastAnchoredId > batchCount) actions.push({ kind: 'reopen', aboveId: batchCount })
    for (const batch of chain.confirmed) {
      if (batch.id <= batchCount) actions.push({ kind: 'inspect', batch, finalizedBlockNumber })
    }
  }
  actions.push({ kind: 'plan' })
  for (const [place, batch] of open.entries()) {
    const action = pickStep(batch, place === 0)
    if (action !== null) actions.push(action)
  }
  return actions.filter((action) => !settled.has(actionKey(action)))
}

/** Names an action within a cycle: its kind, and its batch if it has one. */
export function actionKey(action: CycleAction): string {
  return 'batch' in action ? `${action.kind} ${action.batch.id}` : action.kind
}

function pickStep(batch: Batch, isNextOnChain: boolean): CycleAction | null {
  switch (batch.state) {
    case 'planned':
      return { kind: 'archive', batch }
    case 'archived':
      return { kind: 'post', batch }
    case 'da_posted':
      return isNextOnChain ? { kind: 'submit', batch } : null
    case 'submitted':
      return isNextOnChain ? { kind: 'confirm', batch } : null
    case 'confirmed':
    case 'final':
      return null
  }
}
