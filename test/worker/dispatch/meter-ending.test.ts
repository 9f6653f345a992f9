import { expect, test } from 'vitest'
import type { RequestReport } from '../../../protocol/backend.ts'
import { meterEnding, needsReport } from '../../../worker/dispatch/meter-ending.ts'
import { ApiError } from '../../../worker/errors.ts'

const usageOf = (prompt: number, completion: number) => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion,
})
const report = (prompt: number, completion: number): RequestReport => ({
  request_id: 'req_1',
  state: 'cancelled',
  usage: usageOf(prompt, completion),
  tallygate: null,
})
const evidence = (seen: object) => ({
  usage: null,
  provenance: null,
  tokenCount: 0,
  estimatedPromptTokens: 9,
  ...seen,
})
const failed = { how: 'failed', error: new ApiError('upstream_error') } as const

test.each([
  [
    'a whole answer by its usage',
    { how: 'whole' },
    { usage: usageOf(5, 3), tokenCount: 2 },
    null,
    [5, 3],
  ],
  [
    'a whole answer without usage by its report',
    { how: 'whole' },
    { tokenCount: 2 },
    report(5, 3),
    [5, 3],
  ],
  [
    'a whole answer that nobody counted by its frames',
    { how: 'whole' },
    { tokenCount: 2 },
    null,
    [9, 2],
  ],
  [
    'a client that left by the report',
    { how: 'client_left' },
    { tokenCount: 1 },
    report(5, 4),
    [5, 4],
  ],
  ['a client that left by the frames', { how: 'client_left' }, { tokenCount: 1 }, null, [9, 1]],
  ['a client that left before the first token', { how: 'client_left' }, {}, null, [0, 0]],
  ['a failure by the tokens that went out', failed, { tokenCount: 2 }, report(5, 4), [5, 2]],
  ['a failure that nobody else counted', failed, { tokenCount: 2 }, null, [0, 2]],
  ['a failure before the first token, whatever was computed', failed, {}, report(5, 4), [0, 0]],
] as const)('bills %s', (_name, ending, seen, found, [prompt, completion]) => {
  const { usage } = meterEnding(ending, evidence(seen), found)
  expect(usage).toMatchObject(usageOf(prompt, completion))
})

test('asks for a report only where it can change the bill', () => {
  expect(needsReport({ how: 'whole' }, evidence({ usage: usageOf(1, 1) }))).toBe(false)
  expect(needsReport({ how: 'client_left' }, evidence({}))).toBe(true)
  expect(needsReport(failed, evidence({}))).toBe(false)
})
