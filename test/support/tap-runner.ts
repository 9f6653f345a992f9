import type { ModelRunner } from '../../gpu-backend/engine/model-runner.ts'

/** The runner, but `onLogits` sees those of each step's rows that have any, in order. They are the runner's own memory. */
export function tapRunner(
  runner: ModelRunner,
  onLogits: (logits: readonly Float32Array[]) => void,
): ModelRunner {
  return {
    vocabSize: runner.vocabSize,
    contextLength: runner.contextLength,
    kvPageTokens: runner.kvPageTokens,
    kvPageCount: runner.kvPageCount,
    createKvRow: () => runner.createKvRow(),
    addKvPage: (row, page, content) => runner.addKvPage(row, page, content),
    copyKvPage: (from, to) => runner.copyKvPage(from, to),
    freeKvRow: (row) => runner.freeKvRow(row),
    run: async (rows) => {
      const results = await runner.run(rows)
      onLogits(results.filter((logits) => logits !== null))
      return results
    },
  }
}
