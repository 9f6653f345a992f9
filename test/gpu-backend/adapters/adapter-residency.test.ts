import { expect, test } from 'vitest'
import { createAdapterResidency } from '../../../gpu-backend/adapters/adapter-residency.ts'
import type { LoraWeights } from '../../../gpu-backend/adapters/lora-weights.ts'

const digest = `0x${'1'.repeat(64)}` as const
const weights: LoraWeights = { digest, sizeBytes: 8, modules: new Map() }

function createResidency() {
  return createAdapterResidency({
    engine: { loadAdapter: async () => {}, unloadAdapter: async () => {} },
    budgetBytes: 8,
    maxWaitingCount: 10,
    onChange: () => {},
    log: () => {},
  })
}

/** A content whose files are read when the test says so; `reads` counts how often. */
function createContent() {
  const file = Promise.withResolvers<LoraWeights>()
  const begun = Promise.withResolvers<void>()
  const content = {
    digest,
    sizeBytes: 8,
    owner: {},
    readCount: 0,
    read: () => {
      content.readCount += 1
      begun.resolve()
      return file.promise
    },
  }
  return { content, file, begun: begun.promise }
}

test('who joined a load of files that went finds the adapter in its own, and those that left are not asked', async () => {
  const residency = createResidency()
  const gone = createContent()
  const kept = createContent()
  const leaving = new AbortController()
  const first = residency.hold(gone.content, leaving.signal)
  await gone.begun
  const others = [residency.hold(kept.content), residency.hold(kept.content)]
  leaving.abort(new Error('left'))
  await expect(first).rejects.toThrow('left')
  gone.file.reject(new Error('The files are gone.'))
  await kept.begun
  kept.file.resolve(weights)
  for (const release of await Promise.all(others)) release()
  expect([gone.content.readCount, kept.content.readCount]).toEqual([1, 1])
  expect(residency.stateOf(digest)).toBe('ready')
  expect(residency.stats()).toMatchObject({ residentCount: 1, usedBytes: 8, waitingCount: 0 })
})

test('what fails in its own files fails for all who have them, after one try', async () => {
  const residency = createResidency()
  const { content, file, begun } = createContent()
  const holds = [residency.hold(content), residency.hold(content)]
  await begun
  file.reject(new Error('broken'))
  for (const hold of holds) await expect(hold).rejects.toThrow('broken')
  expect(content.readCount).toBe(1)
  expect(residency.stateOf(digest)).toBeNull()
  expect(residency.stats()).toMatchObject({ residentCount: 0, usedBytes: 0, waitingCount: 0 })
})

test('who waits for a second try may leave as from the first', async () => {
  const residency = createResidency()
  const gone = createContent()
  const kept = createContent()
  const leaving = new AbortController()
  const first = residency.hold(gone.content)
  await gone.begun
  const second = residency.hold(kept.content, leaving.signal)
  gone.file.reject(new Error('The files are gone.'))
  await expect(first).rejects.toThrow('gone')
  await kept.begun
  leaving.abort(new Error('left'))
  await expect(second).rejects.toThrow('left')
  kept.file.resolve(weights)
  await expect.poll(() => residency.stateOf(digest)).toBe('ready')
  expect(residency.stats()).toMatchObject({ residentCount: 1, waitingCount: 0 })
})
