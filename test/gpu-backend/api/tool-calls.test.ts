import fc from 'fast-check'
import OpenAI from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestBackend, type TestBackend } from '../../support/test-backend.ts'

/** The engine says what the test puts here, piece by piece. */
let pieces: readonly string[] = []
let backend: TestBackend
let client: OpenAI

beforeAll(async () => {
  backend = await startTestBackend({ answer: () => pieces })
  client = new OpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused', maxRetries: 0 })
})

afterAll(() => backend.close())

const request = {
  model: 'tiny',
  messages: [{ role: 'user' as const, content: 'Weather?' }],
  tools: ['weather', 'time'].map((name) => ({
    type: 'function' as const,
    function: { name, parameters: { type: 'object' } },
  })),
}
const CALLS = [
  {
    name: 'weather',
    arguments: '{"city": "Ox</tool_call>ford \\"\u00fc{\\"", "days": [1, {"a": 2}]}',
  },
  { name: 'time', arguments: '{}' },
]
const written = CALLS.map(
  (call) => `<tool_call>\n{"name": "${call.name}", "arguments": ${call.arguments}}\n</tool_call>`,
)

/** Cuts a text where the numbers say. */
function cut(text: string, places: readonly number[]): readonly string[] {
  const ends = [...new Set(places.map((place) => place % text.length)), text.length]
  ends.sort((a, b) => a - b)
  return ends.map((end, i) => text.slice(ends[i - 1] ?? 0, end)).filter((piece) => piece !== '')
}

test('calls are told from text, whole and by the stream helper, wherever tokens end', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('', 'Let me <look> that up.\n', '<tool'),
      fc.integer({ min: 1, max: 2 }),
      fc.array(fc.nat(500), { maxLength: 30 }),
      async (before, count, places) => {
        pieces = cut(before + written.slice(0, count).join('\n'), places)
        const whole = await client.chat.completions.create(request)
        const streamed = await client.chat.completions.stream(request).finalChatCompletion()
        for (const { choices } of [whole, streamed]) {
          const { message, finish_reason } = choices[0]!
          expect(finish_reason).toBe('tool_calls')
          expect(message.content ?? '').toBe(before)
          expect(message.tool_calls).toMatchObject(
            CALLS.slice(0, count).map((called) => ({ type: 'function', function: called })),
          )
        }
      },
    ),
    { numRuns: 40, seed: 3 },
  )
})

test('a call that is cut before its name comes back as text', async () => {
  const text = 'So: <tool_call>\n{"name": "wea'
  pieces = cut(`${text}ther"`, [3, 20, text.length])
  const cutRequest = { ...request, max_tokens: 3 }
  const { choices } = await client.chat.completions.create(cutRequest)
  expect(choices[0]).toMatchObject({ finish_reason: 'length', message: { content: text } })
  expect(choices[0]!.message.tool_calls).toBeUndefined()
})

test('parallel_tool_calls false lets one call through', async () => {
  const grammarOf = async (parallel_tool_calls: boolean) => {
    pieces = ['Hi']
    await client.chat.completions.create({ ...request, parallel_tool_calls })
    return backend.engine.requests.at(-1)!.grammar
  }
  expect(await grammarOf(false)).toContain('loop_after_dispatch=false')
  expect(await grammarOf(true)).toContain('loop_after_dispatch=true')
})
