import type { MeterEvent } from './meter-event-store.ts'

export type StripeAnswer =
  | { readonly outcome: 'accepted' }
  /** Surely not taken. `isForAll`: other events would fare no better now. */
  | { readonly outcome: 'refused'; readonly why: string; readonly isForAll: boolean }
  /** Perhaps taken: no answer, or one that says that Stripe failed. */
  | { readonly outcome: 'unclear'; readonly why: string; readonly isAnswered: boolean }

export interface StripeClientOptions {
  readonly url: string
  readonly secretKey: string
  /** `event_name` of the meter. */
  readonly eventName: string
  readonly timeoutMs: number
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
}

/** The one part of Stripe's API that is used: `POST /v1/billing/meter_events`. Never throws. */
export interface StripeClient {
  readonly send: (event: MeterEvent, nowMs: number) => Promise<StripeAnswer>
}

/** Stripe takes no event that is older than 35 days. */
const MAX_AGE_MS = 34 * 24 * 3_600_000

export function createStripeClient(options: StripeClientOptions): StripeClient {
  const { url, secretKey, eventName, timeoutMs } = options
  return {
    send: async (event, nowMs) => {
      const form = new URLSearchParams({
        event_name: eventName,
        identifier: event.identifier,
        timestamp: String(
          Math.floor(Math.max(event.lastCompletedAtMs, nowMs - MAX_AGE_MS) / 1_000),
        ),
        'payload[stripe_customer_id]': event.customerId,
        'payload[value]': String(event.valueMicroUsd),
      })
      const deadline = new AbortController()
      const timer = setTimeout(() => deadline.abort(), timeoutMs)
      try {
        const response = await options.fetch(`${url.replace(/\/$/, '')}/v1/billing/meter_events`, {
          method: 'POST',
          headers: {
            authorization: `Bearer ${secretKey}`,
            'content-type': 'application/x-www-form-urlencoded',
            // An answer of 500 is given again to the same key; the identifier is what makes it one event.
            'idempotency-key': `${event.identifier}-${event.serverErrorCount}`,
          },
          body: form.toString(),
          redirect: 'manual',
          signal: deadline.signal,
        })
        return readAnswer(response.status, await response.text(), event.identifier)
      } catch (error) {
        const why = deadline.signal.aborted ? 'no answer in time' : describe(error)
        return { outcome: 'unclear', why, isAnswered: false }
      } finally {
        clearTimeout(timer)
      }
    },
  }
}

function readAnswer(status: number, text: string, identifier: string): StripeAnswer {
  if (status >= 200 && status < 300) return { outcome: 'accepted' }
  const why = `${status}: ${text.slice(0, 500)}`
  // An earlier attempt got there.
  const isDuplicate = /already exists with identifier/i.test(text) && text.includes(identifier)
  if (status === 400 && isDuplicate) return { outcome: 'accepted' }
  // 409: the same request is under way; a redirect is nobody we know.
  if (status >= 500 || status === 409 || status < 400)
    return { outcome: 'unclear', why, isAnswered: status >= 500 }
  return { outcome: 'refused', why, isForAll: [401, 403, 429].includes(status) }
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : 'the request failed'
}
