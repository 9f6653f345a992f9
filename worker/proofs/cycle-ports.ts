import type { AnchorClient } from './anchor-client.ts'
import type { ArchiveStore } from './archive-store.ts'
import type { BatchStore } from './batch-store.ts'
import type { DaClient } from './da-client.ts'
import type { BatchLimits } from './plan-batch.ts'

/** What a cycle works with. */
export interface CyclePorts {
  readonly store: BatchStore
  readonly archive: ArchiveStore
  /** Null: none is configured, and the archive is the only source of payloads. */
  readonly da: DaClient | null
  readonly chain: AnchorClient
  readonly nowMs: () => number
  readonly sleep: (ms: number) => Promise<void>
  readonly limits: CycleLimits
}

export interface CycleLimits extends BatchLimits {
  /** No new step begins after this much of a cycle. */
  readonly cycleMs: number
  /** How long a cycle waits for a transaction that it just sent to be mined. */
  readonly confirmWaitMs: number
  /** A transaction that has been pending for this long is replaced by a dearer one. */
  readonly pendingTooLongMs: number
  /** A batch that the DA layer has not taken for this long is anchored with the archive alone. */
  readonly daPatienceMs: number
}
