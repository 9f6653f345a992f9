import type { LoadGenerator } from './load.ts'
import type { Peer } from './peers.ts'
import { readTreeCpuMs } from './process-tree.ts'
import { median, quantile } from './statistics.ts'
import { CHUNK_COUNT, CHUNK_INTERVAL_MS } from './stream-clock.ts'

/** One kind of load, put on several peers in the same rounds. */
export interface Load {
  readonly connectionCount: number
  readonly isStream: boolean
  /** UTF-8 bytes of the prompt. */
  readonly promptSizeBytes: number
  /** Requests are sent in the name of so many callers of the peer. */
  readonly callerCount: number
}

/** Medians of the rounds; times in milliseconds. */
export interface Figures {
  readonly requestsPerSecond: number
  /** Null where nobody's CPU time is counted. */
  readonly cpuMsPerRequest: number | null
  readonly latencyP50Ms: number
  readonly latencyP99Ms: number
  /** NaN without streams, as all below. */
  readonly firstTokenP50Ms: number
  readonly firstTokenP99Ms: number
  readonly chunkDelayP50Ms: number
  readonly chunkDelayP99Ms: number
}

export interface MeasureOptions {
  readonly generator: LoadGenerator
  readonly roundCount: number
  /** Of one load on one peer in one round. */
  readonly durationMs: number
}

/** What a gateway does after its answers – the ledger's way to the database – belongs to its CPU time. */
const AFTERWORK_MS = 1_500

/** Measures one load on peers, one after the other in each round, each round in another order. */
export async function measureLoad<Name extends string>(
  peers: Readonly<Record<Name, Peer>>,
  load: Load,
  options: MeasureOptions,
): Promise<Record<Name, Figures>> {
  const names = Object.keys(peers) as Name[] // the record's own keys
  const rounds = new Map<Name, Figures[]>(names.map((name) => [name, []]))
  for (let round = 0; round < options.roundCount; round++) {
    const order = round % 2 === 0 ? names : names.toReversed()
    for (const name of order) rounds.get(name)?.push(await measureOnce(peers[name], load, options))
  }
  const entries = [...rounds].map(([name, figures]) => [name, takeMedians(figures)])
  return Object.fromEntries(entries) as Record<Name, Figures> // an entry a name
}

async function measureOnce(
  peer: Peer,
  load: Load,
  { generator, durationMs }: MeasureOptions,
): Promise<Figures> {
  const { connectionCount, isStream, promptSizeBytes, callerCount } = load
  const cpuBeforeMs = peer.pid === null ? null : readTreeCpuMs(peer.pid)
  const result = await generator.run({
    url: `${peer.url}/v1/chat/completions`,
    headers: peer.headers.slice(0, callerCount),
    body: composeBody(promptSizeBytes, isStream),
    isStream,
    connectionCount,
    durationMs,
    staggerMs: isStream ? (CHUNK_COUNT * CHUNK_INTERVAL_MS) / connectionCount : 0,
  })
  await new Promise((resolve) => setTimeout(resolve, AFTERWORK_MS))
  const requestCount = result.latencyMs.length
  const cpuMs =
    peer.pid === null || cpuBeforeMs === null ? null : readTreeCpuMs(peer.pid) - cpuBeforeMs
  return {
    requestsPerSecond: (requestCount * 1_000) / result.elapsedMs,
    cpuMsPerRequest: cpuMs === null ? null : cpuMs / requestCount,
    latencyP50Ms: median(result.latencyMs),
    latencyP99Ms: quantile(result.latencyMs, 0.99),
    firstTokenP50Ms: median(result.firstTokenMs),
    firstTokenP99Ms: quantile(result.firstTokenMs, 0.99),
    chunkDelayP50Ms: median(result.chunkDelayMs),
    chunkDelayP99Ms: quantile(result.chunkDelayMs, 0.99),
  }
}

function composeBody(promptSizeBytes: number, isStream: boolean): string {
  const text = 'The quick brown fox jumps over the lazy dog. '
  const content = text.repeat(Math.ceil(promptSizeBytes / text.length)).slice(0, promptSizeBytes)
  const request = { model: 'mock', messages: [{ role: 'user', content }], max_tokens: 64 }
  return JSON.stringify({ ...request, ...(isStream && { stream: true }) })
}

function takeMedians(rounds: readonly Figures[]): Figures {
  const medianOf = (name: keyof Figures) =>
    median(rounds.map((figures) => figures[name] ?? Number.NaN))
  return {
    requestsPerSecond: medianOf('requestsPerSecond'),
    cpuMsPerRequest: rounds[0]?.cpuMsPerRequest == null ? null : medianOf('cpuMsPerRequest'),
    latencyP50Ms: medianOf('latencyP50Ms'),
    latencyP99Ms: medianOf('latencyP99Ms'),
    firstTokenP50Ms: medianOf('firstTokenP50Ms'),
    firstTokenP99Ms: medianOf('firstTokenP99Ms'),
    chunkDelayP50Ms: medianOf('chunkDelayP50Ms'),
    chunkDelayP99Ms: medianOf('chunkDelayP99Ms'),
  }
}
