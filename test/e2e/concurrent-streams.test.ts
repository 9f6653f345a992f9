import { afterAll, beforeAll, expect, it } from 'vitest'
import {
  ADAPTER_IDS,
  createInstallation,
  getJson,
  type Installation,
  LONG_ANSWER_TOKENS,
  settledUsage,
  streamChat,
} from '../support/installation.ts'
import { createRandom } from '../support/random.ts'
import type { StartedStack } from '../support/stack.ts'

let installation: Installation
let stack: StartedStack
beforeAll(async () => {
  installation = await createInstallation()
  stack = await installation.start()
})
afterAll(async () => {
  await stack?.interrupt()
  await installation?.remove()
})

it('settles each of 32 concurrent streams exactly once, those that were aborted too', async () => {
  const random = createRandom(32)
  const base = (await getJson(stack, '/models')).data[0].id
  const models = [base, ...ADAPTER_IDS]
  const streams = await Promise.all(
    Array.from({ length: 32 }, (_, index) => {
      const isAborted = index % 3 === 0
      return streamChat(stack, {
        model: models[index % models.length] ?? base,
        maxTokens: isAborted ? LONG_ANSWER_TOKENS : 20 + Math.floor(random() * 100),
        ...(isAborted && { abortAfter: 1 + Math.floor(random() * 60) }),
      })
    }),
  )
  const seen = streams.filter((stream) => stream !== null)
  expect(seen).toHaveLength(32)

  const usage = await settledUsage(stack)
  expect(usage.map((line) => line.request_id).sort()).toEqual(
    seen.map((stream) => stream.requestId).sort(),
  )
  for (const stream of seen) {
    const line = usage.find(({ request_id }) => request_id === stream.requestId)
    const report = await installation.report(stack, stream.requestId)
    expect(line).toMatchObject({
      outcome: stream.ending === 'aborted' ? 'client_aborted' : 'completed',
      prompt_tokens: report?.usage.prompt_tokens,
      completion_tokens: report?.usage.completion_tokens,
    })
    if (stream.ending === 'done') expect(line).toMatchObject(stream.usage ?? {})
    else expect(line?.completion_tokens).toBeGreaterThanOrEqual(stream.frameCount)
  }

  const { sums } = await getJson(stack, '/usage?group_by=key')
  const { budget } = await getJson(stack, '/key')
  expect(sums).toHaveLength(1)
  expect(sums[0]).toMatchObject({
    request_count: 32,
    completion_tokens: usage.reduce((sum, line) => sum + line.completion_tokens, 0),
    fee_micro_usd: usage.reduce((sum, line) => sum + line.fee_micro_usd, 0),
  })
  expect(budget.spent_micro_usd).toBe(sums[0].fee_micro_usd)
  expect(budget.reserved_micro_usd).toBe(0)
})
