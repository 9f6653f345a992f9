import { expect, test } from 'vitest'
import { createStreamMeter } from '../../../worker/dispatch/stream-meter.ts'

const frame = (data: unknown) => ({
  bytes: new TextEncoder().encode(`data: ${JSON.stringify(data)}\n\n`),
  data: typeof data === 'string' ? data : JSON.stringify(data),
})
const choice = (part: object, finish_reason: string | null = null, index = 0) => ({
  choices: [{ index, ...part, finish_reason }],
})
const usage = { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 }

const createMeter = (options = {}) =>
  createStreamMeter({
    choiceCount: 1,
    wantsUsage: false,
    wantsAttribution: false,
    now: () => 0,
    ...options,
  })

test('one frame with text is one token; roles, ends and empty choices are none', () => {
  const meter = createMeter()
  const frames: [object, number][] = [
    [choice({ delta: { role: 'assistant' } }), 0],
    [choice({ delta: { role: 'assistant', content: '' } }), 0],
    [choice({ delta: { content: 'a' } }), 1],
    [choice({ delta: { content: '' } }), 1],
    [choice({ delta: { content: null, tool_calls: [{}] } }), 1],
    [choice({ delta: { content: 'a', tool_calls: [{}] } }), 1],
    [choice({ delta: { role: 'assistant', content: '', tool_calls: [{}] } }), 1],
    [choice({ delta: { role: 'assistant', content: '', reasoning_content: '' } }), 0],
    [choice({ delta: { reasoning_content: 'a' } }), 1],
    [choice({ delta: {} }), 0],
    [choice({ text: 'a' }), 1],
    [choice({ text: '' }), 1],
    [choice({ delta: { content: 'x' } }, 'stop'), 0],
    [{ choices: [] }, 0],
  ]
  for (const [chunk, tokens] of frames) {
    const before = meter.reading.tokenFrameCount
    expect(meter.read(frame(chunk))).not.toBeNull()
    expect(meter.reading.tokenFrameCount - before, JSON.stringify(chunk)).toBe(tokens)
  }
})

test('a stream is whole when every answer has ended, or with [DONE]', () => {
  const meter = createMeter({ choiceCount: 2 })
  meter.read(frame(choice({ delta: {} }, 'stop', 0)))
  expect(meter.reading.isWhole).toBe(false)
  meter.read(frame(choice({ delta: {} }, 'length', 1)))
  expect(meter.reading).toMatchObject({ isWhole: true, isDone: false })

  const other = createMeter()
  expect(other.read(frame('[DONE]'))).toBeNull()
  expect(other.reading).toMatchObject({ isWhole: true, isDone: true })
})

test('usage and provenance are cut out of a frame that also carries text', () => {
  const meter = createMeter()
  const bytes = meter.read(frame({ ...choice({ delta: { content: 'a' } }), usage, tallygate: {} }))
  expect(new TextDecoder().decode(bytes!)).toBe(
    `data: ${JSON.stringify(choice({ delta: { content: 'a' } }))}\n\n`,
  )
  expect(meter.reading.usage).toMatchObject(usage)
})

test('a usage that is none is not believed', () => {
  for (const bad of [{ prompt_tokens: -1 }, { completion_tokens: 1.5 }, { prompt_tokens: '5' }]) {
    const meter = createMeter({ wantsUsage: true })
    expect(meter.read(frame({ choices: [], usage: { ...usage, ...bad } }))).toBeNull()
    expect(meter.reading.usage).toBeNull()
    expect(meter.composeUsageChunk(usage)).toMatchObject({ choices: [], usage })
  }
})

test('an upstream error is held back and noticed', () => {
  const meter = createMeter()
  expect(meter.read(frame({ error: { message: 'secret' } }))).toBeNull()
  expect(meter.reading.hasError).toBe(true)
})
