import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Accounting } from '../../../gpu-backend/engine/accounting.ts'
import { createChoiceGroup } from '../../../gpu-backend/engine/choice-group.ts'
import { countUsage, createSequence } from '../../../gpu-backend/engine/sequence.ts'
import { engineRequest } from '../../support/engine-request.ts'

test('charges a tenant for each token of its prompts that was computed, once, and for each that was sampled', () => {
  const move = fc.oneof(
    fc.record({ kind: fc.constant('admit' as const), foundCount: fc.nat(24) }),
    fc.record({ kind: fc.constant('run' as const), tokenCount: fc.integer({ min: 1, max: 8 }) }),
    fc.record({ kind: fc.constant('lose' as const) }),
  )
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 24 }), fc.array(move), (promptCount, moves) => {
      const charged = { prompt: 0, tokens: 0 }
      const accounting = new Accounting({
        chargePrompt: (tenant, tokenCount) => {
          expect(tenant).toBe('tenant')
          charged.prompt += tokenCount
        },
        chargeToken: () => {
          charged.tokens++
        },
      })
      const promptTokens = Array(promptCount).fill(1)
      const sequence = createSequence(engineRequest({ id: 'r', promptTokens }), {
        ...{ serial: 0, atMs: 0, pageTokens: 8, tokenBytes: () => new Uint8Array() },
        group: createChoiceGroup(),
        scope: { sharedBy: 'tenant', model: 'model', adapter: null },
      })
      let computedCount = 0
      let furthestCount = 0
      let foundCount = 0
      for (const { kind, ...how } of moves) {
        if (kind === 'lose') sequence.kv = null
        if (kind === 'admit' && sequence.kv === null) {
          const most = Math.min(
            sequence.knownTokenCount - 1,
            (how as { foundCount: number }).foundCount,
          )
          computedCount = most
          foundCount += Math.max(0, Math.min(most, promptCount) - furthestCount)
          sequence.kv = {
            row: {
              id: 0,
              capacity: 99,
              get length() {
                return computedCount
              },
            },
            pages: [],
            labelledCount: 0,
          }
          accounting.noteAdmission(sequence)
        }
        if (kind === 'run' && sequence.kv !== null) {
          const isPrompt = computedCount < promptCount
          const most = isPrompt ? promptCount - computedCount : 1
          computedCount += Math.min(most, (how as { tokenCount: number }).tokenCount)
          accounting.noteComputed(sequence)
          if (computedCount === sequence.knownTokenCount) {
            sequence.tokens.push(1)
            sequence.history.sampledCount++
            accounting.noteSampled(sequence)
          }
        }
        furthestCount = Math.max(furthestCount, Math.min(computedCount, promptCount))
        const { promptTokens: billed, completionTokens } = countUsage(sequence)
        expect(billed).toBe(furthestCount)
        expect(charged).toEqual({ prompt: billed - foundCount, tokens: completionTokens })
        expect(accounting.counts).toMatchObject({
          promptTokenCount: billed,
          completionTokenCount: completionTokens,
        })
      }
    }),
  )
})
