import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { AnswerMatcher } from '../../../gpu-backend/engine/answer-grammar.ts'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { EngineEvent } from '../../../gpu-backend/engine/engine-port.ts'
import type { EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import { engineRequest } from '../../support/engine-request.ts'
import { createToyRunner, TOY_VOCAB_SIZE, toyTokenBytes } from '../../support/toy-runner.ts'

const LIMITS: EngineLimits = {
  maxRunningCount: 4,
  maxWaitingCount: 8,
  maxWaitMs: 1_000_000,
  promoteAfterMs: 1_000_000,
  chunkTokens: 4,
}

/** Even tokens, then odd ones, by turns. */
function maskOf(acceptedCount: number): Int32Array {
  return new Int32Array(Math.ceil(TOY_VOCAB_SIZE / 32)).fill(
    acceptedCount % 2 === 0 ? 0x55555555 : 0xaaaaaaaa | 0,
  )
}

/** `delay(n)`: how often the n-th mask of a matcher is asked for in vain; negative: it cannot be found. */
function setUp(delay: (index: number) => number, kvTokens = 208) {
  const runner = createToyRunner({ kvTokens, pageTokens: 4, contextLength: 100 })
  const events: EngineEvent[] = []
  const faults: string[] = []
  const counts = { open: 0, sought: 0 }
  const engine = new Engine({
    runner,
    tokenBytes: toyTokenBytes,
    adapters: new Set(),
    limits: LIMITS,
    modelDigest: 'model',
    prefixSharing: 'tenant',
    nowMs: () => 0,
    emit: (event) => events.push(event),
    onFault: (error) => faults.push(String(error)),
    openGrammar: openMatcher,
  })
  function openMatcher(): AnswerMatcher {
    let [acceptedCount, askedCount] = [0, 0]
    let isSought = false
    counts.open++
    return {
      seekMask: () => {
        isSought = true
      },
      findMask: () => {
        expect(isSought).toBe(true)
        const wait = delay(acceptedCount)
        if (wait < 0) throw new Error('no mask')
        return askedCount++ < wait ? null : maskOf(acceptedCount)
      },
      accept: (tokenId) => {
        expect(tokenId % 2).toBe(acceptedCount % 2)
        acceptedCount++
        askedCount = 0
        isSought = false
      },
      dispose: () => {
        counts.open--
      },
    }
  }
  const tokensOf = (id: string) =>
    events.flatMap((event) => (event.kind === 'token' && event.id === id ? [event.tokenId] : []))
  const lastOf = (id: string) => events.findLast((event) => event.id === id)
  return { engine, runner, events, faults, counts, tokensOf, lastOf }
}

async function drain(engine: Engine): Promise<void> {
  while (engine.hasWork) await engine.step()
}

async function runAlone(grammar: string | null) {
  const { engine, tokensOf } = setUp(() => 0)
  engine.submit(engineRequest({ id: 'r', grammar }))
  await drain(engine)
  return tokensOf('r')
}

test('who waits for a mask holds up nobody, and goes on when it comes', async () => {
  let isFound = false
  const { engine, runner, tokensOf, lastOf, counts } = setUp(() => (isFound ? 0 : 1_000))
  engine.submit(engineRequest({ id: 'bound', grammar: 'g' }))
  engine.submit(engineRequest({ id: 'free', tenant: 'other' }))
  while (lastOf('free')?.kind !== 'finish') expect(await engine.step()).toBe(true)
  expect(tokensOf('free')).toEqual(await runAlone(null))
  expect(tokensOf('bound')).toEqual([])
  const stepCount = runner.stepSizes.length
  expect(await engine.step()).toBe(false)
  expect(await engine.step()).toBe(false)
  expect(runner.stepSizes).toHaveLength(stepCount)
  isFound = true
  await drain(engine)
  expect(tokensOf('bound')).toEqual(await runAlone('g'))
  expect([runner.misuse, runner.liveRowCount(), counts.open]).toEqual([null, 0, 0])
})

test('an answer is the same whenever its masks come and whoever takes its memory meanwhile', async () => {
  const expected = await runAlone('g')
  let preemptionCount = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat(6), { minLength: 8, maxLength: 8 }),
      fc.nat(20),
      async (delays, arrivesAt) => {
        const { engine, runner, tokensOf, counts } = setUp((index) => delays[index] ?? 0, 16)
        engine.submit(engineRequest({ id: 'bound', grammar: 'g', tier: 'batch' }))
        for (let step = 0; step < arrivesAt; step++) await engine.step()
        engine.submit(engineRequest({ id: 'urgent', tier: 'interactive', grammar: 'g' }))
        await drain(engine)
        preemptionCount += engine.stats.preemptionCount
        expect(tokensOf('bound')).toEqual(expected)
        expect(tokensOf('urgent')).toEqual(expected)
        expect([runner.misuse, runner.liveRowCount(), counts.open]).toEqual([null, 0, 0])
      },
    ),
    { seed: 3 },
  )
  expect(preemptionCount).toBeGreaterThan(20)
})

test('who leaves while waiting for a mask gives everything back', async () => {
  const { engine, runner, lastOf, counts } = setUp(() => 1_000)
  engine.submit(engineRequest({ id: 'r', grammar: 'g' }))
  await engine.step()
  engine.cancel('r')
  await engine.step()
  expect(lastOf('r')).toMatchObject({ kind: 'cancelled', usage: { promptTokens: 3 } })
  expect([engine.hasWork, runner.liveRowCount(), counts.open]).toEqual([false, 0, 0])
})

test('a mask that cannot be found ends its request alone', async () => {
  const { engine, tokensOf, lastOf, faults, counts } = setUp((index) => (index === 2 ? -1 : 0))
  engine.submit(engineRequest({ id: 'bound', grammar: 'g' }))
  engine.submit(engineRequest({ id: 'free' }))
  await drain(engine)
  expect(lastOf('bound')).toMatchObject({ kind: 'error', code: 'internal_error' })
  expect(tokensOf('bound')).toHaveLength(2)
  expect(lastOf('free')).toMatchObject({ kind: 'finish' })
  expect([faults, counts.open]).toEqual([['Error: no mask'], 0])
})
