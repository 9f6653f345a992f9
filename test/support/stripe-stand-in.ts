/** What goes wrong with one request. */
export type StripeFault =
  | 'none'
  /** Refused before anything is done. */
  | 'rate_limited'
  /** Nothing is done, and 500 is answered. */
  | 'fails'
  /** The event is taken, and 500 is answered. */
  | 'takes_and_fails'
  /** The connection is cut before the request arrived. */
  | 'lost'
  /** The event is taken, and the connection cut. */
  | 'takes_and_cuts'

/** What Stripe took. */
export interface TakenEvent {
  readonly identifier: string
  readonly customerId: string
  readonly valueMicroUsd: number
  readonly atMs: number
}

/** Thrown where the connection is cut. */
class Cut extends Error {}

const IDENTIFIER_KEPT_MS = 24 * 3_600_000

/**
 * `POST /v1/billing/meter_events` as Stripe answers it: an identifier that it took within a day is
 * refused with 400; an answer is given again to the same Idempotency-Key, one of 500 too.
 */
export class StripeStandIn {
  readonly taken: TakenEvent[] = []
  readonly #answers = new Map<string, { readonly body: string; readonly answer: Answer }>()
  readonly #nextFault: () => StripeFault
  readonly #now: () => number

  constructor(nextFault: () => StripeFault, now: () => number) {
    this.#nextFault = nextFault
    this.#now = now
  }

  /** Throws {@link Cut}. */
  answer(headers: Headers, body: string): Answer {
    const fault = this.#nextFault()
    if (fault === 'lost') throw new Cut('connection reset')
    if (fault === 'rate_limited') return refuse(429, 'Too many requests.')
    if (headers.get('authorization') !== 'Bearer sk_test') return refuse(401, 'Invalid API Key.')
    const key = headers.get('idempotency-key') ?? ''
    const known = this.#answers.get(key)
    if (known !== undefined && known.body !== body) {
      return refuse(400, 'Keys for idempotent requests can only be used with the same parameters.')
    }
    const answer = known?.answer ?? this.#take(new URLSearchParams(body), fault)
    if (key !== '') this.#answers.set(key, { body, answer })
    if (fault === 'takes_and_cuts') throw new Cut('connection reset')
    return answer
  }

  #take(form: URLSearchParams, fault: StripeFault): Answer {
    if (fault === 'fails') return refuse(500, 'An unknown error occurred.')
    const atMs = this.#now()
    const identifier = form.get('identifier') ?? ''
    const value = form.get('payload[value]') ?? ''
    const ageMs = atMs - Number(form.get('timestamp')) * 1_000
    if (form.get('event_name') !== 'micro_usd') return refuse(400, 'No active meter found.')
    if (!/^\d+$/.test(value) || identifier === '' || identifier.length > 100) {
      return refuse(400, 'Invalid payload.')
    }
    if (ageMs > 35 * 24 * 3_600_000 || ageMs < -300_000) {
      return refuse(400, 'The timestamp must be within the past 35 calendar days.')
    }
    const isKnown = this.taken.some(
      (event) => event.identifier === identifier && atMs - event.atMs < IDENTIFIER_KEPT_MS,
    )
    if (isKnown) return refuse(400, `An event already exists with identifier ${identifier}.`)
    const customerId = form.get('payload[stripe_customer_id]') ?? ''
    this.taken.push({ identifier, customerId, valueMicroUsd: Number(value), atMs })
    if (fault === 'takes_and_fails') return refuse(500, 'An unknown error occurred.')
    return { status: 200, text: JSON.stringify({ object: 'billing.meter_event', identifier }) }
  }
}

interface Answer {
  readonly status: number
  readonly text: string
}

function refuse(status: number, message: string): Answer {
  return { status, text: JSON.stringify({ error: { type: 'invalid_request_error', message } }) }
}
