import { bytesToHex, type Hex } from 'viem'

/** What the DA layer made of a payload. */
export type PutOutcome =
  | { readonly outcome: 'stored'; readonly commitment: Hex }
  /** The proxy itself says: use another DA; or it did not answer in time. */
  | { readonly outcome: 'fail_over'; readonly reason: string }
  /** Worth another try later: not reached, busy for too long, or an answer that makes no sense. */
  | { readonly outcome: 'failed'; readonly reason: string }
  /** No try will ever help: over the proxy's limit. */
  | { readonly outcome: 'too_large'; readonly reason: string }

export type GetOutcome =
  | { readonly outcome: 'found'; readonly payload: Uint8Array }
  /** Missing and expired blobs are among these: the proxy answers 500 to them. */
  | { readonly outcome: 'failed'; readonly reason: string }

export interface DaClient {
  readonly put: (payload: Uint8Array) => Promise<PutOutcome>
  readonly get: (commitment: Hex) => Promise<GetOutcome>
}

export interface DaClientOptions {
  /** Base URL of an EigenDA proxy, v2.x or compatible. */
  readonly url: string
  /** A dispersal takes minutes on the real network. */
  readonly timeoutMs: number
  readonly sleep: (ms: number) => Promise<void>
}

/** First byte of a commitment in standard mode; another one means another mode (eigenda-proxy v2.7). */
const STANDARD_CERT_VERSION = 0x03

/** Waits between tries while the proxy says "slow down". */
const BACKOFF_MS = [1_000, 2_000, 4_000, 8_000] as const

/** Speaks the HTTP API of an EigenDA proxy. Never rejects: every way to fail is an outcome. */
export function createDaClient(options: DaClientOptions): DaClient {
  const call = (path: string, init: RequestInit) =>
    fetch(`${options.url.replace(/\/+$/, '')}${path}?commitment_mode=standard`, {
      ...init,
      redirect: 'manual',
      signal: AbortSignal.timeout(options.timeoutMs),
    })
  return {
    put: async (payload) => {
      try {
        for (const waitMs of [...BACKOFF_MS, null]) {
          // No slash after `put`: `/put/` stores in another mode.
          const response = await call('/put', { method: 'POST', body: payload })
          if (response.status !== 429 || waitMs === null) return await readPut(response)
          await response.body?.cancel()
          await options.sleep(waitMs)
        }
        return { outcome: 'failed', reason: 'the DA proxy asks to slow down' }
      } catch (error) {
        const reason = describeFailure(error)
        return isTimeout(error) ? { outcome: 'fail_over', reason } : { outcome: 'failed', reason }
      }
    },
    get: async (commitment) => {
      try {
        const response = await call(`/get/${commitment}`, { method: 'GET' })
        if (response.ok) return { outcome: 'found', payload: await readBytes(response) }
        return { outcome: 'failed', reason: await describeRefusal(response) }
      } catch (error) {
        return { outcome: 'failed', reason: describeFailure(error) }
      }
    },
  }
}

async function readPut(response: Response): Promise<PutOutcome> {
  if (!response.ok) {
    const reason = await describeRefusal(response)
    if (response.status === 503) return { outcome: 'fail_over', reason }
    return { outcome: response.status === 400 ? 'too_large' : 'failed', reason }
  }
  const commitment = await readBytes(response)
  if (commitment[0] !== STANDARD_CERT_VERSION) {
    const start = bytesToHex(commitment.subarray(0, 3))
    return {
      outcome: 'failed',
      reason: `the DA proxy gave a commitment of another mode (${start}…)`,
    }
  }
  return { outcome: 'stored', commitment: bytesToHex(commitment) }
}

async function readBytes(response: Response): Promise<Uint8Array> {
  return new Uint8Array(await response.arrayBuffer())
}

/** The status and the end of the body: the proxy repeats a whole certificate before it says why. */
async function describeRefusal(response: Response): Promise<string> {
  const text = (await response.text()).trim()
  return `the DA proxy answered ${response.status}: ${text.slice(-200)}`
}

function describeFailure(error: unknown): string {
  if (isTimeout(error)) return 'the DA proxy did not answer in time'
  const reason = error instanceof Error ? error.message : String(error)
  return `the DA proxy cannot be reached: ${reason}`
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'TimeoutError'
}
