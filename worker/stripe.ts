import { reportUsage, type UsageReport } from './ledger/report-usage.ts'
import { createStripeClient } from './ledger/stripe-client.ts'
import type { Services } from './services.ts'

const ANSWER_TIMEOUT_MS = 10_000

export type StripeRun =
  | ({ readonly outcome: 'ran' } & UsageReport)
  /** A variable is absent: Stripe is told nothing. */
  | { readonly outcome: 'not_configured'; readonly missing: readonly string[] }

/** Tells Stripe what was used since the last time, where it is configured. */
export async function reportToStripe({ config, database, log }: Services): Promise<StripeRun> {
  const { STRIPE_SECRET_KEY, STRIPE_METER_EVENT_NAME, STRIPE_URL } = config
  if (STRIPE_SECRET_KEY === undefined || STRIPE_METER_EVENT_NAME === undefined) {
    const needed = { STRIPE_SECRET_KEY, STRIPE_METER_EVENT_NAME }
    const missing = Object.entries(needed).flatMap(([name, value]) => (value ? [] : [name]))
    return { outcome: 'not_configured', missing }
  }
  const stripe = createStripeClient({
    url: STRIPE_URL,
    secretKey: STRIPE_SECRET_KEY,
    eventName: STRIPE_METER_EVENT_NAME,
    timeoutMs: ANSWER_TIMEOUT_MS,
    fetch: (url, init) => fetch(url, init),
  })
  const report = await reportUsage({ database, stripe, now: Date.now })
  for (const errorMessage of report.failures) log('stripe_failed', { errorMessage })
  return { outcome: 'ran', ...report }
}
