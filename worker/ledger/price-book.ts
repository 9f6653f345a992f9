import { ApiError } from '../errors.ts'
import { describeError, type Log } from '../log.ts'
import { CLOCK_SPREAD_MS, MAX_PRICE_LIST_AGE_MS, type PriceList } from './price-list.ts'

export interface PriceBook {
  /** The published prices. Throws an ApiError while they cannot be read and are not known. */
  readonly read: (waitUntil: (work: Promise<unknown>) => void) => Promise<PriceList>
}

export interface PriceBookOptions {
  /** Every version in force at some time from then on. */
  readonly fetchList: (fromMs: number) => Promise<PriceList>
  readonly log: Log
  readonly now: () => number
}

/** A list older than this is read anew while it is still used. */
const FRESH_MS = 30_000
const RETRY_AFTER_MS = 1_000

/**
 * The published prices as one isolate knows them: plain data and never a promise, as the model
 * catalogue is. A list counts from before it was asked for.
 */
export function createPriceBook({ fetchList, log, now }: PriceBookOptions): PriceBook {
  let list: PriceList = new Map()
  let readAtMs = Number.NEGATIVE_INFINITY
  let refreshBeganAtMs = Number.NEGATIVE_INFINITY

  async function refresh(): Promise<void> {
    const beganAtMs = now()
    refreshBeganAtMs = beganAtMs
    // Tariffs look back this far.
    const fetched = await fetchList(beganAtMs - CLOCK_SPREAD_MS)
    if (beganAtMs < readAtMs) return
    list = fetched
    readAtMs = beganAtMs
  }

  const logFailure = (error: unknown) => log('prices_failed', describeError(error))

  return {
    read: async (waitUntil) => {
      const ageMs = now() - readAtMs
      if (ageMs <= FRESH_MS) return list
      if (ageMs > MAX_PRICE_LIST_AGE_MS) {
        await refresh().catch((error: unknown) => {
          logFailure(error)
          throw new ApiError('ledger_unavailable', {
            message: 'The prices cannot be read right now, so nothing is served.',
            retryAfterMs: RETRY_AFTER_MS,
          })
        })
      } else if (now() - refreshBeganAtMs > FRESH_MS) waitUntil(refresh().catch(logFailure))
      return list
    },
  }
}
