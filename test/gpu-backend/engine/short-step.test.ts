import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../../gpu-backend/engine/scheduler.ts'
import { listForStep } from '../../../gpu-backend/engine/short-step.ts'
import { engineRequest } from '../../support/engine-request.ts'
import { createToyRunner, toyTokenBytes } from '../../support/toy-runner.ts'

const runningArbitrary = fc.array(
  fc.record({
    tenant: fc.constantFrom('quiet', 'calm', 'flood', 'other flood'),
    level: fc.nat(2),
    promptTokenCount: fc.constant(4),
    knownTokenCount: fc.constant(9),
    computedCount: fc.constantFrom(0, 4),
  }),
)

test('only rows of who floods are left out, for a prompt as urgent of a tenant that used less', () => {
  const used = new Map(Object.entries({ quiet: 1, calm: 3, flood: 2, 'other flood': 4 }))
  const usedBy = (tenant: string) => used.get(tenant)!
  const floods = (tenant: string) => tenant.includes('flood')
  fc.assert(
    fc.property(runningArbitrary, (running) => {
      const chosen = listForStep(running, { floods, usedBy, levelOf: ({ level }) => level })
      expect(running.filter((row) => chosen.includes(row))).toEqual(chosen)
      const prompts = running.filter(
        ({ tenant, computedCount }) => computedCount < 4 && !floods(tenant),
      )
      for (const row of running) {
        const givesWay = prompts.some(
          ({ tenant, level }) => level <= row.level && usedBy(tenant) < usedBy(row.tenant),
        )
        expect(chosen.includes(row)).toBe(!floods(row.tenant) || !givesWay)
      }
    }),
  )
})

test('who floods is left out of four steps in a row at most', async () => {
  const tokenSteps: number[] = []
  let step = 0
  const engine = new Engine({
    runner: createToyRunner({ kvTokens: 65_536, contextLength: 4_096, pageTokens: 64 }),
    tokenBytes: toyTokenBytes,
    adapters: new Set(),
    limits: DEFAULT_ENGINE_LIMITS,
    modelDigest: 'model',
    prefixSharing: 'nobody',
    nowMs: () => step,
    emit: ({ kind, id }) => {
      if (kind === 'token' && id === 'flood 0') tokenSteps.push(step)
    },
    onFault: (error) => {
      throw error
    },
  })
  const submit = (tenant: string, id: string, maxTokens: number) =>
    engine.submit(engineRequest({ tenant, id, promptTokens: [1, 2, 3], maxTokens }))
  for (let i = 0; i < 20; i++) submit('flood', `flood ${i}`, 1_000)
  for (; step < 100; step++) {
    if (step >= 10) submit(`tenant ${step}`, `quiet ${step}`, 1)
    await engine.step()
  }
  const gaps = tokenSteps.slice(1).map((at, index) => at - tokenSteps[index]!)
  expect(Math.max(...gaps)).toBe(5)
  expect(tokenSteps.at(-1)).toBeGreaterThanOrEqual(95)
})
