import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import type { GrammarCommand, GrammarReport, GrammarThreadOptions } from './grammar-messages.ts'
import { createXgrammar, type GrammarMatcher } from './xgrammar.ts'

/** The grammar thread: one command after the other, each to its end. */
assert(parentPort, 'This file is the entry of a worker thread.')
const { vocabulary, port }: GrammarThreadOptions = workerData
const open = await createXgrammar(vocabulary)
const matchers = new Map<number, GrammarMatcher>()
let last = Promise.resolve()
port.on('message', (command: GrammarCommand) => {
  last = last.then(() => obey(command))
})
parentPort.postMessage(null)

async function obey(command: GrammarCommand): Promise<void> {
  try {
    await carryOut(command)
  } catch (error) {
    const detail = (error instanceof Error && error.stack) || String(error)
    matchers.get(command.id)?.dispose()
    matchers.delete(command.id)
    report({ kind: 'fault', id: command.id, detail })
  }
}

async function carryOut(command: GrammarCommand): Promise<void> {
  const { kind, id } = command
  if (kind === 'open') {
    matchers.set(id, await open(command.grammar))
    return
  }
  const matcher = matchers.get(id)
  if (matcher === undefined) return // it could not be opened, which was said
  switch (kind) {
    case 'accept':
      matcher.accept(command.tokenId)
      break
    case 'seek_mask':
      report({ kind: 'mask', id, mask: await matcher.nextMask() })
      break
    case 'dispose':
      matcher.dispose()
      matchers.delete(id)
  }
}

function report(answer: GrammarReport): void {
  port.postMessage(answer)
}
