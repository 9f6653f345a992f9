import { spawnLines } from './spawn-lines.ts'

/** A closed loop of one request after the other on each connection. */
export interface LoadJob {
  readonly url: string
  /** One set a caller, in turn. */
  readonly headers: readonly Readonly<Record<string, string>>[]
  readonly body: string
  readonly isStream: boolean
  readonly connectionCount: number
  readonly durationMs: number
  /** Between the first requests of two connections. */
  readonly staggerMs: number
}

export interface LoadResult {
  readonly elapsedMs: number
  /** Of each request, from its sending to the end of its answer. */
  readonly latencyMs: readonly number[]
  /** Of each stream, from its sending to its first token. */
  readonly firstTokenMs: readonly number[]
  /** Of each chunk, from the upstream to here. */
  readonly chunkDelayMs: readonly number[]
}

export interface LoadGenerator {
  /** One job at a time. Throws on the first answer that is not the mock's. */
  readonly run: (job: LoadJob) => Promise<LoadResult>
  readonly close: () => Promise<void>
}

/** Starts the process that makes the requests. */
export function startLoadGenerator(): LoadGenerator {
  const child = spawnLines([`${import.meta.dirname}/load-generator.ts`])
  return {
    run: async (job) => {
      child.write(JSON.stringify(job))
      const answer = JSON.parse(await child.nextLine()) as LoadResult | { readonly error: string } // load-generator.ts
      if ('error' in answer) throw new Error(answer.error)
      return answer
    },
    close: child.close,
  }
}
