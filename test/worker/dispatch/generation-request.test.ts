import { expect, test } from 'vitest'
import {
  boundTokens,
  DEFAULT_MAX_COMPLETION_TOKENS,
  encodeUpstreamBody,
  type GenerationRequest,
} from '../../../worker/dispatch/generation-request.ts'

function createRequest(parts: Partial<GenerationRequest>): GenerationRequest {
  const body = parts.body ?? { model: 'm' }
  return {
    endpoint: 'chat.completions',
    model: 'm',
    merge: null,
    isStream: false,
    wantsUsage: false,
    wantsAttribution: false,
    choiceCount: 1,
    computedChoiceCount: 1,
    maxCompletionTokens: null,
    promptTokenBound: 1_000,
    bodyBytes: new TextEncoder().encode(JSON.stringify(body)),
    ...parts,
    body,
  }
}

function readText(body: Uint8Array | string): string {
  return typeof body === 'string' ? body : new TextDecoder().decode(body)
}

test('the worst case is the answers asked for, within the context of the model', () => {
  const bound = (parts: Partial<GenerationRequest>, contextLength?: number) =>
    boundTokens(createRequest(parts), contextLength)
  expect(bound({ maxCompletionTokens: 10 }, 512)).toEqual({
    promptTokens: 512,
    completionTokens: 10,
  })
  expect(bound({ maxCompletionTokens: 9_999 }, 512).completionTokens).toBe(512)
  expect(bound({}, 512).completionTokens).toBe(512)
  expect(bound({ computedChoiceCount: 3, maxCompletionTokens: 10 }, 512).completionTokens).toBe(30)
  expect(bound({ choiceCount: 2, promptTokenBound: 700 }, 512).promptTokens).toBe(700)
  expect(bound({})).toEqual({
    promptTokens: 1_000,
    completionTokens: DEFAULT_MAX_COMPLETION_TOKENS,
  })
})

test('the body goes upstream as it came, unless something must be added', () => {
  const untouched = createRequest({ maxCompletionTokens: 5, body: { model: 'm', x: [1] } })
  expect(encodeUpstreamBody(untouched, undefined)).toBe(untouched.bodyBytes)
  const asked = createRequest({ isStream: true, wantsUsage: true, maxCompletionTokens: 5 })
  expect(encodeUpstreamBody(asked, 512)).toBe(asked.bodyBytes)

  const encode = (request: GenerationRequest, contextLength?: number) =>
    JSON.parse(readText(encodeUpstreamBody(request, contextLength)))
  const body = {
    model: 'm',
    stream: true,
    stream_options: { include_usage: false, other: 1 },
    x: 1,
  }
  expect(encode(createRequest({ isStream: true, body }), 512)).toEqual({
    ...body,
    stream_options: { include_usage: true, other: 1 },
  })
  const plain = { model: 'm', stream: true, x: { y: 1 } }
  expect(encode(createRequest({ isStream: true, body: plain }), 512)).toEqual({
    ...plain,
    stream_options: { include_usage: true },
  })
  // A limit that only the gateway knows of would not hold.
  expect(encode(createRequest({}))).toEqual({
    model: 'm',
    max_tokens: DEFAULT_MAX_COMPLETION_TOKENS,
  })
})
