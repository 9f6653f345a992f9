import type {
  AdmitRequest,
  AdmitResult,
  Reroute,
  Settlement,
  SettleResult,
  ShardAdmitResult,
} from '../access/account-contract.ts'
import { describeError, type Log } from '../log.ts'

/** The calls of the hot path, as the account's object answers them. */
interface AccountPort {
  readonly admit: (request: AdmitRequest) => Promise<AdmitResult>
  /** Of a shard of the account. */
  readonly admitShare: (request: AdmitRequest) => Promise<ShardAdmitResult>
  readonly settle: (settlement: Settlement) => Promise<SettleResult>
  readonly renew: (requestId: string) => Promise<boolean>
  readonly reroute: (requestId: string, to: Reroute) => Promise<boolean>
}

/** The account's side of one request. */
export interface AccountClient {
  /** Once admitted, the reservation is kept alive until `settle` or `abandon`. */
  readonly admit: (request: AdmitRequest) => Promise<AdmitResult>
  readonly settle: (settlement: Settlement) => Promise<SettleResult>
  /** Says that another backend serves. Throws when there is no reservation any more. */
  readonly reroute: (requestId: string, to: Reroute) => Promise<void>
  /** Leaves the reservation to the sweep. */
  readonly abandon: () => void
  /** To be told once the reservation is about to be settled, or left to the sweep. */
  readonly onClose: (tell: () => void) => void
}

export interface AccountClientOptions {
  /** A new stub: one serves until it throws, and may stay broken then. Shard 0 is the account's own object. */
  readonly createStub: (shard: number) => AccountPort
  /** Which is to serve the request. */
  readonly shard: number
  /** Told how many there are, by each answer that says so. */
  readonly noteShards: (shards: number) => void
  /** Well below the term of a reservation, milliseconds. */
  readonly renewEveryMs: number
  readonly log: Log
}

const ATTEMPT_COUNT = 4
const FIRST_DELAY_MS = 25

/**
 * Calls an account's object, and again after a failure: its calls are idempotent by request id.
 * Throws the last failure.
 */
export function createAccountClient(options: AccountClientOptions): AccountClient {
  const { createStub, log } = options
  let renewal: ReturnType<typeof setInterval> | null = null
  let { shard } = options
  let hasFailed = false
  let kept: AccountPort | null = null
  let tellClosed = () => {}

  async function callWithRetries<T>(
    requestId: string,
    call: (stub: AccountPort) => Promise<T>,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        kept ??= createStub(shard)
        return await call(kept)
      } catch (error) {
        kept = null
        hasFailed = true
        log('account_call_failed', { requestId, attempt, ...describeError(error) })
        if (attempt === ATTEMPT_COUNT) throw error
        const delayMs = FIRST_DELAY_MS * 4 ** (attempt - 1) * (0.5 + Math.random())
        await new Promise((resolve) => setTimeout(resolve, delayMs))
      }
    }
  }

  async function renew(requestId: string): Promise<void> {
    try {
      await createStub(shard).renew(requestId)
    } catch (error) {
      log('account_call_failed', { requestId, ...describeError(error) })
    }
  }

  async function admit(request: AdmitRequest): Promise<AdmitResult> {
    const { requestId } = request
    if (shard !== 0) {
      const result = await callWithRetries(requestId, (stub) => stub.admitShare(request))
      if (result.outcome !== 'moved') return result
      options.noteShards(1)
      // What failed may have been admitted there, and is settled there then.
      if (hasFailed) throw new Error('The account has no such shard any more.')
      shard = 0
      kept = null
    }
    return callWithRetries(requestId, (stub) => stub.admit(request))
  }

  const abandon = () => {
    if (renewal !== null) clearInterval(renewal)
    tellClosed()
  }

  return {
    abandon,
    onClose: (tell) => {
      tellClosed = tell
    },
    admit: async (request) => {
      const result = await admit(request)
      if (result.outcome === 'admitted') {
        options.noteShards(result.shards ?? 1)
        renewal = setInterval(() => void renew(request.requestId), options.renewEveryMs)
      }
      return result
    },
    reroute: async (requestId, to) => {
      const isOpen = await callWithRetries(requestId, (stub) => stub.reroute(requestId, to))
      if (!isOpen) throw new Error('The request was settled before it was sent on.')
    },
    settle: async (settlement) => {
      tellClosed()
      try {
        return await callWithRetries(settlement.requestId, (stub) => stub.settle(settlement))
      } finally {
        abandon()
      }
    },
  }
}
