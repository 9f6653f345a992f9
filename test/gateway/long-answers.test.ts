import { setTimeout } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import {
  type Exchange,
  type ScriptedUpstream,
  startScriptedUpstream,
} from '../support/scripted-upstream.ts'

const DIGEST = `0x${'1'.repeat(64)}`
const SILENCE_MS = 1_000
const ANSWER_MS = 5 * SILENCE_MS
/** At a quarter of the silence between two of them, three times as long as may be silent. */
const REPORT_COUNT = 12

let upstream: ScriptedUpstream
let gateway: GatewayUnderTest

/** Answers when so many reports were asked for; each says what `describe` says of its number. */
const answerAfterReports = (describe: (index: number) => object) => ({
  digest: DIGEST,
  script: async (exchange: Exchange) => {
    let askedCount = 0
    const { promise: enough, resolve } = Promise.withResolvers<void>()
    upstream.reports.set(exchange.requestId, {
      request_id: exchange.requestId,
      state: 'running',
      tallygate: null,
      toJSON() {
        askedCount += 1
        if (askedCount === REPORT_COUNT) resolve()
        return { ...this, toJSON: undefined, ...describe(askedCount) }
      },
    })
    await enough
    exchange.sendJson(200, composeAnswer(composeUsage(REPORT_COUNT)))
  },
})

const composeAnswer = (usage: object) => ({
  choices: [{ index: 0, message: { content: 'long' } }],
  usage,
})

const composeUsage = (tokenCount: number) => ({
  prompt_tokens: 1,
  completion_tokens: tokenCount,
  total_tokens: tokenCount + 1,
})

beforeAll(async () => {
  upstream = await startScriptedUpstream({
    growing: answerAfterReports((index) => ({ usage: composeUsage(index) })),
    queued: answerAfterReports(() => ({ usage: composeUsage(0), queue_position: 2 })),
    stuck: answerAfterReports(() => ({ usage: composeUsage(0) })),
    other: {
      script: async (exchange) => {
        await setTimeout(2 * SILENCE_MS)
        exchange.sendJson(200, composeAnswer(composeUsage(1)))
      },
    },
    'other-stuck': { script: () => {} },
  })
  gateway = await startGatewayUnderTest([{ id: 'one', url: upstream.url }], {
    UPSTREAM_SILENCE_MS: String(SILENCE_MS),
    UPSTREAM_ANSWER_MS: String(ANSWER_MS),
  })
}, 60_000)

afterAll(async () => {
  await gateway.close()
  await upstream.close()
})

const ask = (model: string) =>
  gateway.call('/v1/chat/completions', {
    method: 'POST',
    body: JSON.stringify({ model, messages: [{ role: 'user', content: 'Go on' }] }),
  })

test.each(['growing', 'queued', 'other'])(
  'An answer in one piece takes as long as it takes: %s',
  async (model) => {
    const response = await ask(model)
    expect(await response.json()).toMatchObject({ choices: [{ message: { content: 'long' } }] })
  },
)

test.each(['stuck', 'other-stuck'])(
  'A backend that gets nowhere is given up: %s',
  async (model) => {
    const response = await ask(model)
    await expect(response.text()).rejects.toThrow()
  },
)
