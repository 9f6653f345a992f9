import type {
  AdmitRequest,
  AdmitResult,
  Settlement,
  SettleResult,
} from '../access/account-contract.ts'
import { describeError, type Log } from '../log.ts'

/** The two calls of the hot path, as the account's object answers them. */
export interface AccountPort {
  readonly admit: (request: AdmitRequest) => Promise<AdmitResult>
  readonly settle: (settlement: Settlement) => Promise<SettleResult>
}

const ATTEMPT_COUNT = 4
const FIRST_DELAY_MS = 25

/**
 * Calls an account's object, and again after a failure: both calls are idempotent by request id.
 * Each attempt takes a new stub, because a stub that has thrown may stay broken. Throws the last
 * failure.
 */
export function createAccountClient(createStub: () => AccountPort, log: Log): AccountPort {
  async function callWithRetries<T>(
    requestId: string,
    call: (stub: AccountPort) => Promise<T>,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await call(createStub())
      } catch (error) {
        log('account_call_failed', { requestId, attempt, ...describeError(error) })
        if (attempt === ATTEMPT_COUNT) throw error
        const delayMs = FIRST_DELAY_MS * 4 ** (attempt - 1) * (0.5 + Math.random())
        await new Promise((resolve) => setTimeout(resolve, delayMs))
      }
    }
  }

  return {
    admit: (request) => callWithRetries(request.requestId, (stub) => stub.admit(request)),
    settle: (settlement) =>
      callWithRetries(settlement.requestId, (stub) => stub.settle(settlement)),
  }
}
