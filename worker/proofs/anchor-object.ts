import { DurableObject } from 'cloudflare:workers'
import { parseConfig, type StorageBindings } from '../env.ts'
import { UsageAnchorClient } from './anchor-client.ts'
import { type CycleReport, runAnchorCycle } from './anchor-cycle.ts'
import { ArchiveStore } from './archive-store.ts'
import { BatchStore } from './batch-store.ts'
import { createDaClient } from './da-client.ts'

export type CycleResult =
  | ({ readonly outcome: 'ran' } & CycleReport)
  /** Another cycle is running; what it leaves is for the next one. */
  | { readonly outcome: 'busy' }
  /** A variable is absent, and batches wait. */
  | { readonly outcome: 'not_configured'; readonly missing: readonly string[] }

/** A dispersal to EigenDA takes up to minutes. */
const DA_TIMEOUT_MS = 180_000

const LIMITS = {
  cycleMs: 120_000,
  confirmWaitMs: 10_000,
  pendingTooLongMs: 120_000,
  daPatienceMs: 3_600_000,
}

/**
 * The one writer of anchors: it alone sends transactions with the anchoring key, and it runs one
 * cycle at a time, however often the cron fires. It keeps nothing; all state is in D1, the archive
 * and the chain, so that an eviction in the middle of a cycle loses nothing. No request waits for
 * it. Use the one object named `anchor`.
 */
export class AnchorObject extends DurableObject<StorageBindings> {
  #isRunning = false

  /** Moves every batch on as far as it goes now. Rejects when D1 cannot be read. */
  async runCycle(): Promise<CycleResult> {
    const config = parseConfig(this.env)
    const { CHAIN_RPC_URL, ANCHOR_ADDRESS, ANCHOR_PRIVATE_KEY, DA_URL } = config
    if (!CHAIN_RPC_URL || !ANCHOR_ADDRESS || !ANCHOR_PRIVATE_KEY) {
      const needed = { CHAIN_RPC_URL, ANCHOR_ADDRESS, ANCHOR_PRIVATE_KEY }
      const missing = Object.entries(needed).flatMap(([name, value]) => (value ? [] : [name]))
      return { outcome: 'not_configured', missing }
    }
    if (this.#isRunning) return { outcome: 'busy' }
    this.#isRunning = true
    try {
      const report = await runAnchorCycle({
        store: new BatchStore(this.env.DB),
        archive: new ArchiveStore(this.env.ARCHIVE),
        da:
          DA_URL === undefined
            ? null
            : createDaClient({ url: DA_URL, timeoutMs: DA_TIMEOUT_MS, sleep }),
        chain: new UsageAnchorClient({
          rpcUrl: CHAIN_RPC_URL,
          contract: ANCHOR_ADDRESS,
          privateKey: ANCHOR_PRIVATE_KEY,
        }),
        nowMs: Date.now,
        sleep,
        limits: {
          ...LIMITS,
          maxAgeMs: config.BATCH_MAX_AGE_MS,
          maxBytes: config.BATCH_MAX_BYTES,
        },
      })
      return { outcome: 'ran', ...report }
    } finally {
      this.#isRunning = false
    }
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
