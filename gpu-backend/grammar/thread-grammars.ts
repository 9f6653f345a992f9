import { once } from 'node:events'
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads'
import type { AnswerMatcher, OpenGrammar } from '../engine/answer-grammar.ts'
import type {
  GrammarCommand,
  GrammarReport,
  GrammarThreadOptions,
  GrammarVocabulary,
} from './grammar-messages.ts'

export interface ThreadGrammars {
  readonly open: OpenGrammar
  readonly close: () => Promise<void>
}

/**
 * XGrammar in a thread of its own: compiling takes up to seconds, and holds up only who waits for a
 * mask. Rejects where the library cannot be loaded. When the thread dies, matchers throw: those that
 * are open, and those that are opened later.
 */
export async function startThreadGrammars(vocabulary: GrammarVocabulary): Promise<ThreadGrammars> {
  const { port1: port, port2 } = new MessageChannel()
  const options: GrammarThreadOptions = { vocabulary, port: port2 }
  const worker = new Worker(new URL('./grammar-thread.ts', import.meta.url), {
    name: 'grammar',
    workerData: options,
    transferList: [port2],
  })
  await once(worker, 'message')
  const known = new Map<number, GrammarReport | 'sought' | 'unsought'>()
  let death: Error | null = null
  worker.on('error', (cause) => {
    death = new Error('The grammar thread died.', { cause })
  })
  worker.on('exit', () => {
    death ??= new Error('The grammar thread is gone.')
  })
  // Neither keeps the engine thread alive.
  worker.unref()
  port.unref()
  let nextId = 0

  const say = (command: GrammarCommand) => port.postMessage(command)

  /** Takes what has been said: it lies in the port's queue until somebody asks. */
  function listen(): void {
    for (let next = receiveMessageOnPort(port); next; next = receiveMessageOnPort(port)) {
      const report: GrammarReport = next.message
      if (known.has(report.id)) known.set(report.id, report)
    }
  }

  function open(grammar: string): AnswerMatcher {
    const id = nextId++
    known.set(id, 'unsought')
    say({ kind: 'open', id, grammar })
    return {
      seekMask() {
        if (known.get(id) !== 'unsought') return
        known.set(id, 'sought')
        say({ kind: 'seek_mask', id })
      },
      findMask() {
        listen()
        const report = known.get(id)
        if (typeof report === 'object') return readMask(report)
        if (death !== null) throw death
        return null
      },
      accept(tokenId) {
        known.set(id, 'unsought')
        say({ kind: 'accept', id, tokenId })
      },
      dispose() {
        known.delete(id)
        say({ kind: 'dispose', id })
      },
    }
  }

  return {
    open,
    close: async () => {
      port.close()
      await worker.terminate()
    },
  }
}

function readMask(report: GrammarReport): Int32Array {
  if (report.kind === 'fault') throw new Error(report.detail)
  return report.mask
}
