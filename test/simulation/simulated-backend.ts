import type { RequestReport, Usage } from '../../protocol/backend.ts'
import { ZERO_DIGEST } from '../../protocol/digest.ts'
import type { Network } from './network.ts'

export const BACKEND_URL = 'http://backend.test'

/** `<prompt>+<completion>` tokens of work that has ended, or why there is no such answer. */
type ReportAnswer = `${number}+${number}` | 'running' | 'unknown' | 'unreachable'

interface Work {
  readonly promptTokens: number
  producedTokens: number
  state: RequestReport['state']
  /** Called with each end there is. */
  onEnd: ((state: RequestReport['state']) => void) | null
}

/** A backend that works on requests, and remembers them until it is restarted. */
export class SimulatedBackend {
  readonly #network: Network
  readonly #works = new Map<string, Work>()
  /** What was answered when somebody asked after a request. */
  readonly answers = new Map<string, ReportAnswer[]>()
  isUp = true

  constructor(network: Network) {
    this.#network = network
  }

  /** Resolves once the work has ended, in whatever way; rejects when it is not heard of any more. */
  generate(requestId: string, promptTokens: number, completionTokens: number) {
    return this.#network.send(
      () =>
        new Promise<RequestReport['state']>((resolve, reject) => {
          if (!this.isUp) return reject(new Error('connection refused'))
          if (this.#works.has(requestId)) return
          const work: Work = { promptTokens, producedTokens: 0, state: 'running', onEnd: resolve }
          this.#works.set(requestId, work)
          this.#produce(work, completionTokens)
        }),
    )
  }

  #produce(work: Work, leftCount: number): void {
    const { time, chance } = this.#network
    time.schedule(chance.between(50, 1_500), () => {
      if (work.state !== 'running') return
      const count = Math.min(leftCount, chance.between(1, 20))
      work.producedTokens += count
      if (count === leftCount) this.#end(work, chance.isHit(0.1) ? 'failed' : 'completed')
      else this.#produce(work, leftCount - count)
    })
  }

  #end(work: Work, state: RequestReport['state']): void {
    work.state = state
    work.onEnd?.(state)
    work.onEnd = null
  }

  cancel(requestId: string): void {
    const work = this.#works.get(requestId)
    if (work?.state === 'running') this.#end(work, 'cancelled')
  }

  /** What it has produced so far; null when it knows nothing of the request. */
  usageOf(requestId: string): Usage | null {
    const work = this.#works.get(requestId)
    if (work === undefined) return null
    const { promptTokens, producedTokens } = work
    return {
      prompt_tokens: promptTokens,
      completion_tokens: producedTokens,
      total_tokens: promptTokens + producedTokens,
    }
  }

  /** Everything is forgotten. */
  restart(): void {
    for (const work of this.#works.values()) if (work.state === 'running') this.#end(work, 'failed')
    this.#works.clear()
  }

  /** `GET /tallygate/requests/{id}`. */
  readonly fetch = async (url: string, signal: AbortSignal | null): Promise<Response> => {
    const requestId = url.split('/').at(-1) ?? ''
    const aborted = new Promise<never>((_, reject) => {
      signal?.addEventListener('abort', () => reject(new Error('aborted')))
    })
    const answer = this.#network.send(() => this.#answer(requestId))
    try {
      return await Promise.race([answer, aborted])
    } catch (error) {
      this.#note(requestId, 'unreachable')
      throw error
    }
  }

  #note(requestId: string, answer: ReportAnswer): void {
    this.answers.set(requestId, [...(this.answers.get(requestId) ?? []), answer])
  }

  #answer(requestId: string): Response {
    if (!this.isUp) throw new Error('connection refused')
    const work = this.#works.get(requestId)
    const usage = this.usageOf(requestId)
    if (work === undefined || usage === null) {
      this.#note(requestId, 'unknown')
      return respond(404, {})
    }
    const { state } = work
    const isRunning = state === 'running'
    this.#note(
      requestId,
      isRunning ? 'running' : `${usage.prompt_tokens}+${usage.completion_tokens}`,
    )
    const tallygate = isRunning ? null : PROVENANCE
    return respond(200, { request_id: requestId, state, usage, tallygate } satisfies RequestReport)
  }
}

/** Two contributors, so that the fee's parts have remainders. */
const PROVENANCE = {
  model_digest: `0x${'a'.repeat(64)}`,
  adapter_digest: `0x${'b'.repeat(64)}`,
  adapter_owner: `0x${'4'.repeat(40)}`,
  attribution_digest: ZERO_DIGEST,
  contributors: [
    { contributor: 'ada', payee: `0x${'5'.repeat(40)}`, weight_ppm: 700_001 },
    { contributor: 'bob', payee: `0x${'6'.repeat(40)}`, weight_ppm: 299_999 },
  ],
  spans: [],
  prompt_hash: `0x${'c'.repeat(64)}`,
  output_hash: `0x${'d'.repeat(64)}`,
} as const satisfies object as unknown as NonNullable<RequestReport['tallygate']> // mutable lists

/** A real Response reads its body on turns of its own, which a simulated clock does not wait for. */
function respond(status: number, body: unknown): Response {
  const response = {
    ok: status < 300,
    status,
    json: async () => body,
    body: { cancel: async () => {} },
  }
  return response as unknown as Response // what the report client reads
}
