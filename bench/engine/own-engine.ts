import { readConfig } from '../../gpu-backend/config.ts'
import type { EngineRequest } from '../../gpu-backend/engine/engine-port.ts'
import { planEngine } from '../../gpu-backend/engine-options.ts'
import { startThreadEngine, type ThreadEngine } from '../../gpu-backend/thread-engine.ts'
import { engineRequest } from '../../test/support/engine-request.ts'

/** The engine as the product starts it: its own thread, the default limits and KV cache. */
export function openOwnEngine(modelPath: string, threadCount: number): Promise<ThreadEngine> {
  const config = readConfig({ MODEL: modelPath, THREADS: String(threadCount) })
  return startThreadEngine(planEngine(config), ({ detail }) => {
    console.error(detail)
    process.exitCode = 1
  })
}

export interface Answer {
  readonly submittedAtMs: number
  /** When each of its tokens arrived on this thread. */
  readonly tokenTimesMs: readonly number[]
  /** Null: it was refused. */
  readonly usage: { readonly promptTokens: number; readonly cachedTokens: number } | null
}

export interface Ask {
  readonly promptTokens: readonly number[]
  readonly maxTokens: number
  readonly adapter?: string | null
  readonly tenant?: string
  readonly onToken?: () => void
}

let askedCount = 0

/** Submits at once; greedy, and without any stop, so that it is as long as asked. Rejects when the engine fails it. */
export async function ask(
  engine: ThreadEngine,
  { onToken, ...fields }: Ask,
  signal = new AbortController().signal,
): Promise<Answer> {
  const request: EngineRequest = engineRequest({ id: `bench-${askedCount++}`, ...fields })
  const submittedAtMs = performance.now()
  const tokenTimesMs: number[] = []
  for await (const event of engine.generate(request, signal)) {
    switch (event.kind) {
      case 'token':
        tokenTimesMs.push(performance.now())
        onToken?.()
        break
      case 'finish':
      case 'cancelled':
        return { submittedAtMs, tokenTimesMs, usage: event.usage }
      case 'error':
        if (event.code === 'overloaded') return { submittedAtMs, tokenTimesMs, usage: null }
        throw new Error(event.message)
    }
  }
  throw new Error('the engine ended a request without saying how')
}

/** Any tokens but the vocabulary's first, which are specials. */
export function drawTokens(random: () => number, count: number, vocabSize: number): number[] {
  return Array.from({ length: count }, () => 8 + Math.floor(random() * (vocabSize - 8)))
}
