import { createOpenAI } from '@ai-sdk/openai'
import { generateText, streamText, tool } from 'ai'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest'
import { z } from 'zod'
import { createHeldCallParser } from '../../../gpu-backend/api/held-call-parser.ts'
import {
  HERMES_FORM,
  LLAMA_FORM,
  MISTRAL_FORM,
  type ToolForm,
} from '../../../gpu-backend/text/tool-form.ts'
import { startTestBackend, type TestBackend } from '../../support/test-backend.ts'

const NAMES = new Set(['weather', 'time'])

function parse(form: ToolForm, pieces: readonly string[]) {
  const parser = createHeldCallParser(form, NAMES)
  const parsed = [...pieces.map(parser.push), parser.flush()]
  return {
    content: parsed.map(({ content }) => content).join(''),
    calls: parsed.flatMap(({ calls }) => calls),
  }
}

const ARGUMENTS = '{"city": "O}x\\"]{ü", "days": [1.0, {"a": 12345678901234567890}]}'
const call = (name: string, key: string) => `{"name": "${name}", "${key}": ${ARGUMENTS}}`
const delta = (name: string, index = 0) => ({ index, name, arguments: ARGUMENTS })
const two = `[${call('weather', 'arguments')}, ${call('time', 'arguments')}]`

const CALLING = [
  [LLAMA_FORM, call('weather', 'parameters'), '', [delta('weather')]],
  [LLAMA_FORM, `\n<|python_tag|>${call('time', 'parameters')}\n`, '', [delta('time')]],
  [MISTRAL_FORM, `[TOOL_CALLS] ${two}`, '', [delta('weather'), delta('time', 1)]],
  [
    MISTRAL_FORM,
    `So [TOOL_ [TOOL_CALLS]${two}`,
    'So [TOOL_ ',
    [delta('weather'), delta('time', 1)],
  ],
] as const

const TEXTS = [
  [LLAMA_FORM, call('unknown', 'parameters')],
  [LLAMA_FORM, call('weather', 'arguments')],
  [LLAMA_FORM, call('weather', 'parameters').slice(0, -1)],
  [LLAMA_FORM, `${call('weather', 'parameters')} is a call.`],
  [LLAMA_FORM, `Say ${call('weather', 'parameters')}`],
  [LLAMA_FORM, '<|python_tag|>print("a")'],
  [LLAMA_FORM, ' <|python'],
  [LLAMA_FORM, '{"name": "weather", "parameters": 3}'],
  [MISTRAL_FORM, `[TOOL_CALLS] ${two.slice(0, -1)}`],
  [MISTRAL_FORM, `[TOOL_CALLS] ${two} and more`],
  [MISTRAL_FORM, '[TOOL_CALLS] []'],
  [MISTRAL_FORM, `${two}\n[TOOL_CAL`],
] as const

describe('createHeldCallParser', () => {
  it.each(CALLING)('reads calls, wherever the answer is cut (%#)', (form, text, content, calls) => {
    for (let at = 0; at <= text.length; at++) {
      expect(parse(form, [text.slice(0, at), text.slice(at)])).toEqual({ content, calls })
    }
    expect(parse(form, [...text])).toEqual({ content, calls })
  })

  it.each(TEXTS)('gives back as text what is no call (%#)', (form, text) => {
    for (let at = 0; at <= text.length; at++) {
      expect(parse(form, [text.slice(0, at), text.slice(at)])).toEqual({ content: text, calls: [] })
    }
  })

  it('gives the same for any pieces, and loses no text', () => {
    const part = fc.constantFrom('[TOOL_CALLS]', '<|python_tag|>', ' ', '{', two, 'a', '"', ']')
    const answer = fc
      .array(fc.oneof(part, fc.string()), { maxLength: 6 })
      .map((all) => all.join(''))
    const forms = fc.constantFrom(LLAMA_FORM, MISTRAL_FORM)
    fc.assert(
      fc.property(forms, answer, fc.array(fc.nat(400), { maxLength: 9 }), (form, text, places) => {
        const ends = [...places.map((place) => Math.min(place, text.length)), text.length]
        ends.sort((a, b) => a - b)
        const whole = parse(form, [text])
        expect(
          parse(
            form,
            ends.map((end, i) => text.slice(ends[i - 1] ?? 0, end)),
          ),
        ).toEqual(whole)
        if (whole.calls.length === 0) expect(whole.content).toBe(text)
      }),
      { seed: 5 },
    )
  })
})

describe.each([
  [
    'Hermes',
    HERMES_FORM,
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
  ],
  ['Llama', LLAMA_FORM, '{"name": "weather", "parameters": {"city": "Rome"}}'],
  ['Mistral', MISTRAL_FORM, '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]'],
] as const)('the AI SDK with tool_choice auto, %s', (_, toolForm, written) => {
  let backend: TestBackend
  let answer = written as string
  beforeAll(async () => {
    backend = await startTestBackend({ toolForm, answer: () => answer.match(/.{1,7}/gs) ?? [] })
  })
  afterAll(() => backend?.close())
  const ask = () => ({
    model: createOpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused' }).chat('tiny'),
    prompt: 'Weather?',
    maxRetries: 0,
    toolChoice: 'auto' as const,
    tools: {
      weather: tool({
        inputSchema: z.object({ city: z.string() }),
        execute: () => Promise.resolve('Sun.'),
      }),
    },
  })

  test('a call is a call, whole and streamed', async () => {
    answer = written
    const whole = await generateText(ask())
    const stream = streamText(ask())
    for (const calls of [whole.toolCalls, await stream.toolCalls]) {
      expect(calls).toMatchObject([{ toolName: 'weather', input: { city: 'Rome' } }])
    }
    expect(whole.finishReason).toBe('tool-calls')
    expect(await stream.finishReason).toBe('tool-calls')
  })

  test('text stays text', async () => {
    answer = '{"name": "weather"} is no call.'
    const { text, toolCalls } = await generateText(ask())
    expect(text).toBe(answer)
    expect(toolCalls).toEqual([])
    expect(await streamText(ask()).text).toBe(answer)
  })
})
