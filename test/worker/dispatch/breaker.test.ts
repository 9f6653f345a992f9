import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  type Breaker,
  beginTry,
  blockedForMs,
  CLOSED_BREAKER,
  FAILURES_TO_OPEN,
  MAX_OPEN_MS,
  noteAnswer,
  noteFailure,
  noteNothing,
  PROBE_MS,
} from '../../../worker/dispatch/breaker.ts'

/** Tries whenever one may set out, each of which fails at once. */
function failFor(durationMs: number): { breaker: Breaker; triedAtMs: number[] } {
  let breaker = CLOSED_BREAKER
  const triedAtMs: number[] = []
  for (let nowMs = 0; nowMs < durationMs; nowMs += Math.max(1, blockedForMs(breaker, nowMs))) {
    if (blockedForMs(breaker, nowMs) > 0) continue
    triedAtMs.push(nowMs)
    breaker = noteFailure(beginTry(breaker, nowMs), nowMs)
  }
  return { breaker, triedAtMs }
}

test('a backend that stays down is tried ever less often, and never given up', () => {
  const { triedAtMs } = failFor(600_000)
  const gapsMs = triedAtMs.slice(1).map((atMs, index) => atMs - triedAtMs[index]!)
  const probeGapsMs = gapsMs.slice(FAILURES_TO_OPEN - 1)
  expect(probeGapsMs.slice(0, 6)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000])
  expect(Math.max(...probeGapsMs)).toBe(MAX_OPEN_MS)
})

type Event = 'begin' | 'answer' | 'failure' | 'nothing'

test('one probe at a time, an answer closes, and it always comes to a next try', () => {
  const events = fc.array(
    fc.record({
      event: fc.constantFrom<Event>('begin', 'answer', 'failure', 'nothing'),
      afterMs: fc.nat({ max: 40_000 }),
    }),
    { maxLength: 60 },
  )
  fc.assert(
    fc.property(events, (history) => {
      let breaker: Breaker = CLOSED_BREAKER
      let nowMs = 1_000_000
      for (const { event, afterMs } of history) {
        nowMs += afterMs
        if (event === 'begin' && blockedForMs(breaker, nowMs) === 0) {
          breaker = beginTry(breaker, nowMs)
          if (breaker.state === 'half_open') expect(blockedForMs(breaker, nowMs)).toBe(PROBE_MS)
        }
        if (event === 'answer') {
          breaker = noteAnswer()
          expect(blockedForMs(breaker, nowMs)).toBe(0)
        }
        if (event === 'failure') breaker = noteFailure(breaker, nowMs)
        if (event === 'nothing') breaker = noteNothing(breaker, nowMs)
        const waitMs = blockedForMs(breaker, nowMs)
        expect(waitMs).toBeLessThanOrEqual(Math.max(MAX_OPEN_MS, PROBE_MS))
        expect(blockedForMs(breaker, nowMs + waitMs)).toBe(0)
      }
    }),
    { seed: 7 },
  )
})

test('failures with an answer between them open nothing', () => {
  let breaker = CLOSED_BREAKER
  for (let count = 1; count < FAILURES_TO_OPEN; count++) breaker = noteFailure(breaker, 0)
  expect(breaker.state).toBe('closed')
  expect(noteFailure(breaker, 0).state).toBe('open')
  expect(noteFailure(noteAnswer(), 0).state).toBe('closed')
})

test('a probe whose client left makes room for the next at once', () => {
  const { breaker } = failFor(1)
  const probing = beginTry(breaker, 2_000)
  expect(blockedForMs(noteNothing(probing, 2_001), 2_001)).toBe(0)
})
