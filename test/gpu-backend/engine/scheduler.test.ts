import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  assertLimits,
  DEFAULT_ENGINE_LIMITS,
  planStep,
  type RunningView,
} from '../../../gpu-backend/engine/scheduler.ts'

const limits = {
  ...DEFAULT_ENGINE_LIMITS,
  maxRunningCount: 6,
  maxWaitingCount: 4,
  chunkTokens: 8,
}

/** Those that were admitted first. */
const IN_TURN = (prompts: readonly RunningView[]) => prompts

const runningArbitrary = fc.array(
  fc
    .tuple(fc.integer({ min: 1, max: 60 }), fc.nat(80), fc.nat(20))
    .map(([promptTokenCount, progress, lostCount]): RunningView => {
      const chunked = Math.floor(progress / limits.chunkTokens) * limits.chunkTokens
      const isPrompt = progress < promptTokenCount
      const sampledCount = (isPrompt ? 0 : progress - promptTokenCount + 1) + lostCount
      return {
        promptTokenCount,
        knownTokenCount: promptTokenCount + sampledCount,
        computedCount: isPrompt ? chunked : progress,
      }
    }),
  { minLength: 1, maxLength: limits.maxRunningCount },
)

const isDecoding = (view: RunningView) => view.computedCount >= view.promptTokenCount

test('keeps the budget, gives every decoding sequence its token, and always gets on with the oldest prompt', () => {
  fc.assert(
    fc.property(runningArbitrary, (running) => {
      const rows = planStep(running, limits, IN_TURN)
      const promptTokenCount = rows
        .filter(({ sequence }) => !isDecoding(sequence))
        .reduce((sum, { tokenCount }) => sum + tokenCount, 0)
      expect(promptTokenCount).toBeLessThanOrEqual(limits.chunkTokens)
      const planned = new Set(rows.map((row) => row.sequence))
      expect(planned.size).toBe(rows.length)
      expect(running.filter(isDecoding).every((view) => planned.has(view))).toBe(true)
      const prompts = running.filter((view) => !isDecoding(view))
      const started = prompts.filter((view) => planned.has(view))
      expect(started).toEqual(prompts.slice(0, started.length))
      expect(started.length > 0).toBe(prompts.length > 0)
    }),
  )
})

test('cuts a prompt at the same places whatever runs beside it', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), runningArbitrary, (promptTokenCount, others) => {
      const decoding = others.filter(isDecoding).slice(0, limits.maxRunningCount - 1)
      const ends: number[] = []
      let computedCount = 0
      while (computedCount < promptTokenCount) {
        const knownTokenCount = promptTokenCount
        const view = { promptTokenCount, knownTokenCount, computedCount }
        const rows = planStep([...decoding, view], limits, IN_TURN)
        const row = rows.find(({ sequence }) => sequence === view)!
        computedCount += row.tokenCount
        ends.push(computedCount)
        expect(row.wantsToken).toBe(computedCount === promptTokenCount)
      }
      expect(ends.slice(0, -1).every((end) => end % limits.chunkTokens === 0)).toBe(true)
      expect(ends).toHaveLength(Math.ceil(promptTokenCount / limits.chunkTokens))
    }),
  )
})

test('wants a token only behind the last known one, and runs what was sampled one by one', () => {
  fc.assert(
    fc.property(runningArbitrary, (running) => {
      for (const { sequence, tokenCount, wantsToken } of planStep(running, limits, IN_TURN)) {
        if (isDecoding(sequence)) expect(tokenCount).toBe(1)
        const end = sequence.computedCount + tokenCount
        expect(end).toBeLessThanOrEqual(sequence.knownTokenCount)
        expect(wantsToken).toBe(end === sequence.knownTokenCount)
      }
    }),
  )
})

test('refuses limits that could leave a prompt without room, naming them', () => {
  expect(() => assertLimits(DEFAULT_ENGINE_LIMITS)).not.toThrow()
  expect(() => assertLimits({ ...limits, chunkTokens: 0 })).toThrow('chunkTokens is 0')
  expect(() => assertLimits({ ...limits, maxWaitingCount: 1.5 })).toThrow('maxWaitingCount is 1.5')
})
