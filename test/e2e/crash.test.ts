import { afterEach, beforeEach, expect, it } from 'vitest'
import type { UsageLine } from '../support/gateway-under-test.ts'
import {
  ADAPTER_IDS,
  createInstallation,
  type Installation,
  LONG_ANSWER_TOKENS,
  type StreamSeen,
  settledUsage,
  streamChat,
} from '../support/installation.ts'
import { descendantsOf, isAlive, type StartedStack, waitUntil } from '../support/stack.ts'

let installation: Installation
let stack: StartedStack
beforeEach(async () => {
  // A short term, so that what a crash left open is swept while the test waits.
  process.env.RESERVATION_TTL_MS = '2000'
  installation = await createInstallation()
  stack = await installation.start()
})
afterEach(async () => {
  delete process.env.RESERVATION_TTL_MS
  await stack?.interrupt()
  await installation?.remove()
})

/** 16 short streams that end before the crash and 16 long ones that are in the middle of it. */
async function streamUntil(crash: () => void): Promise<StreamSeen[]> {
  const short = await Promise.all(
    Array.from({ length: 16 }, (_, index) =>
      streamChat(stack, { model: ADAPTER_IDS[index % 4] ?? '', maxTokens: 5 + index }),
    ),
  )
  let runningCount = 0
  const long = await Promise.all(
    Array.from({ length: 16 }, (_, index) =>
      streamChat(
        stack,
        { model: ADAPTER_IDS[index % 4] ?? '', maxTokens: LONG_ANSWER_TOKENS },
        (frameCount) => {
          if (frameCount === 10 && ++runningCount === 16) crash()
        },
      ),
    ),
  )
  const seen = [...short, ...long].filter((stream) => stream !== null)
  expect(seen).toHaveLength(32)
  expect(short.every((stream) => stream?.ending === 'done')).toBe(true)
  expect(long.some((stream) => stream?.ending !== 'done')).toBe(true)
  return seen
}

/** Every answer that anybody saw is in D1 once, whole ones with the counts that the client was told. */
function expectRecorded(seen: readonly StreamSeen[], usage: readonly UsageLine[]): void {
  expect(usage.map((line) => line.request_id).sort()).toEqual(
    seen.map((stream) => stream.requestId).sort(),
  )
  for (const stream of seen) {
    const line = usage.find(({ request_id }) => request_id === stream.requestId)
    if (stream.usage === null) expect(line?.completion_tokens).toBeGreaterThanOrEqual(10)
    else expect(line).toMatchObject(stream.usage)
  }
}

function kill(what: RegExp): void {
  const victims = descendantsOf(stack.child.pid ?? 0).filter(({ command }) => what.test(command))
  expect(victims.length).toBeGreaterThan(0)
  for (const { pid } of victims) process.kill(pid, 'SIGKILL')
}

it('bills what was sent, once, when the backend is killed, and serves again', async () => {
  const seen = await streamUntil(() => kill(/gpu-backend\/index/))
  const cut = seen.filter((stream) => stream.ending !== 'done')
  expect(cut.every((stream) => stream.ending === 'error_event')).toBe(true)

  const usage = await settledUsage(stack)
  expectRecorded(seen, usage)
  for (const stream of cut) {
    const line = usage.find(({ request_id }) => request_id === stream.requestId)
    expect(line).toMatchObject({
      outcome: 'upstream_failed',
      completion_tokens: stream.frameCount,
    })
  }
  const again = await waitUntil(
    () => streamChat(stack, { model: 'ada-1', maxTokens: 3 }),
    (stream) => stream?.ending === 'done',
  )
  expect(again?.usage?.completion_tokens).toBe(3)
})

it('sweeps what it cut, once, when the gateway is killed and comes back', async () => {
  const seen = await streamUntil(() => kill(/workerd.* serve/))
  await waitUntil(
    () =>
      fetch(stack.dashboardUrl).then(
        (response) => response.status,
        () => 0,
      ),
    (status) => status === 200,
  )
  expectRecorded(seen, await settledUsage(stack))
})

it('keeps everything when the whole installation is killed and started again', async () => {
  const left = descendantsOf(stack.child.pid ?? 0)
  const seen = await streamUntil(() => {
    stack.child.kill('SIGKILL')
  })
  stack = await installation.start()
  await waitUntil(
    async () => left.filter(({ pid }) => isAlive(pid)),
    (orphans) => orphans.length === 0,
    5_000,
  )
  const usage = await settledUsage(stack)
  const whole = seen.filter((stream) => stream.ending === 'done')
  expectRecorded(
    whole,
    usage.filter((line) => whole.some(({ requestId }) => requestId === line.request_id)),
  )
  // What was cut is recorded too, at zero where backend and gateway forgot it together.
  expect(new Set(usage.map((line) => line.request_id)).size).toBe(usage.length)
  expect(usage).toHaveLength(seen.length)
})
