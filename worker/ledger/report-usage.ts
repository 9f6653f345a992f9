import {
  listDueMeterEvents,
  noteAccepted,
  noteAttempt,
  noteRefused,
  noteUnclear,
  planMeterEvents,
} from './meter-event-store.ts'
import type { StripeClient } from './stripe-client.ts'

export interface UsageReport {
  readonly acceptedCount: number
  /** Why some were not accepted this time, each once. */
  readonly failures: readonly string[]
}

export interface UsageReporter {
  readonly database: D1Database
  readonly stripe: StripeClient
  readonly now: () => number
}

/** Of one run; the next goes on. */
const MAX_EVENT_COUNT = 200
const MAX_RUN_MS = 60_000

/**
 * Stripe knows an identifier again for a day at least. What may have got there is sent again only
 * within this time: after it, twice could count twice.
 */
const RESEND_WITHIN_MS = 23 * 3_600_000

/** Before when an event must have become unclear to be left alone. */
export function uncertainBefore(nowMs: number): number {
  return nowMs - RESEND_WITHIN_MS
}

/**
 * Tells Stripe what was used. Which records an event covers is durable before it is sent, so whatever
 * happens in between, it is the same event that is sent again. Runs may overlap and end anywhere.
 * Throws when D1 fails.
 */
export async function reportUsage({ database, stripe, now }: UsageReporter): Promise<UsageReport> {
  const startedAtMs = now()
  await planMeterEvents(database, startedAtMs)
  const due = await listDueMeterEvents(database, {
    limit: MAX_EVENT_COUNT,
    uncertainBeforeMs: uncertainBefore(startedAtMs),
  })
  const failures = new Set<string>()
  let acceptedCount = 0
  for (const event of due) {
    const { identifier } = event
    const attemptedAtMs = now()
    if (attemptedAtMs - startedAtMs > MAX_RUN_MS) break
    await noteAttempt(database, identifier, attemptedAtMs)
    const answer = await stripe.send(event, attemptedAtMs)
    if (answer.outcome === 'accepted') {
      await noteAccepted(database, identifier, now())
      acceptedCount += 1
      continue
    }
    failures.add(answer.why)
    if (answer.outcome === 'refused') {
      await noteRefused(database, identifier, { attemptedAtMs, why: answer.why })
      if (answer.isForAll) break
    } else {
      await noteUnclear(database, identifier, answer)
      break
    }
  }
  return { acceptedCount, failures: [...failures] }
}
