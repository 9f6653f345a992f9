import type { ChainHead } from './anchor-client.ts'
import { performAction } from './anchor-steps.ts'
import type { Batch } from './batch-store.ts'
import type { CyclePorts } from './cycle-ports.ts'
import { describeError } from './describe-error.ts'
import { actionKey, type CycleAction, type CycleState, planCycle } from './plan-cycle.ts'

export interface CycleReport {
  /** Steps that went through, in order. */
  readonly steps: readonly { readonly action: string; readonly note: string }[]
  readonly failures: readonly { readonly action: string; readonly error: string }[]
  /** Completion time of the oldest record that is not on chain; null when all are. */
  readonly oldestUnanchoredAtMs: number | null
}

/** Batches looked at in a round, and confirmed ones looked after in a cycle. */
const OPEN_LIMIT = 8
const FINALIZE_LIMIT = 50
const RECHECK_LIMIT = 10

/**
 * Moves every batch on as far as it goes:
 * `planned → archived → da_posted → submitted → confirmed → final`. A step that fails is recorded
 * with its batch and tried again in the next cycle; a crash between or within steps loses nothing,
 * since each is idempotent and its result durable before the next begins. Only one cycle may run
 * at a time (anchor-object.ts). Rejects only when D1 cannot be read.
 */
export async function runAnchorCycle(ports: CyclePorts): Promise<CycleReport> {
  const { store } = ports
  const deadlineMs = ports.nowMs() + ports.limits.cycleMs
  const steps: { action: string; note: string }[] = []
  const failures: { action: string; error: string }[] = []
  const settled = new Set<string>()

  const attempt = async (action: CycleAction) => {
    const key = actionKey(action)
    try {
      const result = await performAction(action, ports)
      if (result.outcome === 'advanced') steps.push({ action: key, note: result.note })
      else settled.add(key)
    } catch (error) {
      settled.add(key)
      failures.push({ action: key, error: describeError(error) })
      if ('batch' in action) await store.recordError(action.batch.id, describeError(error))
    }
  }

  let chain = await readChainState(ports, failures)
  for (;;) {
    const actions = planCycle({ open: await store.listOpen(OPEN_LIMIT), chain, settled })
    chain = null
    if (actions.length === 0 || ports.nowMs() >= deadlineMs) break
    for (const action of actions) await attempt(action)
  }
  return { steps, failures, oldestUnanchoredAtMs: await store.readOldestUnanchoredAtMs() }
}

async function readChainState(
  { chain, store }: CyclePorts,
  failures: { action: string; error: string }[],
): Promise<CycleState['chain']> {
  let head: ChainHead
  try {
    head = await chain.readHead()
  } catch (error) {
    failures.push({ action: 'read chain', error: describeError(error) })
    return null
  }
  const newest = await store.listNewestConfirmed(RECHECK_LIMIT)
  const finalizable = await store.listConfirmedUpTo(head.finalizedBlockNumber ?? -1, FINALIZE_LIMIT)
  const confirmed = new Map<number, Batch>()
  for (const batch of [...finalizable, ...newest]) confirmed.set(batch.id, batch)
  return {
    head,
    lastAnchoredId: await store.readLastAnchoredId(),
    confirmed: [...confirmed.values()],
  }
}
