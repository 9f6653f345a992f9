import assert from 'node:assert/strict'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { createModelRunner } from './compute/model-runner.ts'
import { findMaxSequenceTokens } from './engine/refusal.ts'
import { assertLimits } from './engine/scheduler.ts'
import type { EngineThreadOptions, StartReport } from './engine-messages.ts'
import { startThreadGrammars } from './grammar/thread-grammars.ts'
import { openModel } from './model/open-model.ts'
import { serveEngine } from './serve-engine.ts'
import { listTokenBytes } from './text/token-bytes.ts'

/** The engine thread's composition root: model file → ONNX Runtime session → engine → message port. */
assert(parentPort, 'This file is the entry of a worker thread.')
const opened = await open(parentPort, workerData)
if (opened !== null) {
  await serveEngine(parentPort, opened.served)
  await opened.close()
}
parentPort.close()

/** Says on the port what was opened, or why it could not be: then null. */
async function open(port: MessagePort, options: EngineThreadOptions) {
  const report = (start: StartReport) => port.postMessage(start)
  try {
    assertLimits(options.limits)
    const source = await openModel(options.modelPath, { precision: options.precision })
    const runner = await createModelRunner(source, options.runner)
    const { name, digest, config, tokenizer } = source
    const maxSequenceTokens = findMaxSequenceTokens(runner)
    const bytes = listTokenBytes(tokenizer)
    const noBytes = new Uint8Array()
    const grammars = await startThreadGrammars({
      tokenBytes: bytes,
      vocabSize: config.vocabSize,
      stopTokenIds: tokenizer.eosTokenIds,
    })
    const parts = {
      runner,
      tokenBytes: (tokenId: number) => bytes[tokenId] ?? noBytes,
      limits: options.limits,
      modelDigest: digest,
      prefixSharing: options.prefixSharing,
      nowMs: () => performance.now(),
      openGrammar: grammars.open,
    }
    report({ kind: 'ready', model: { name, digest, config, tokenizer, maxSequenceTokens } })
    const close = async () => {
      await grammars.close()
      await runner.close()
    }
    return { served: { parts, slots: runner }, close }
  } catch (error) {
    const { message, stack = message } = error instanceof Error ? error : new Error(String(error))
    report({ kind: 'failed', message, detail: stack })
    return null
  }
}
