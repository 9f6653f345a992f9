import { runDurableObjectAlarm, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { expect, test } from 'vitest'
import { RESPONSE_KEPT_MS } from '../../../worker/access/response-object.ts'

const open = () => env.RESPONSE.getByName(crypto.randomUUID())

test('a response is kept whole, however long, and gone when its time is up', async () => {
  const stub = open()
  const kept = { response: '{}', conversation: JSON.stringify('é€😀'.repeat(400_000)) }
  const beforeMs = Date.now()
  expect(await stub.keep(kept)).toBe(true)
  expect(await stub.read()).toEqual(kept)
  const alarmAtMs = await runInDurableObject(stub, (_, state) => state.storage.getAlarm())
  expect(alarmAtMs).toBeGreaterThanOrEqual(beforeMs + RESPONSE_KEPT_MS)
  expect(alarmAtMs).toBeLessThanOrEqual(Date.now() + RESPONSE_KEPT_MS)
  expect(await runDurableObjectAlarm(stub)).toBe(true)
  expect(await stub.read()).toBeNull()
})

test('what is forgotten leaves nothing behind, and is forgotten once', async () => {
  const stub = open()
  await stub.keep({ response: '{}', conversation: '[]' })
  expect(await stub.forget()).toBe(true)
  expect(await stub.read()).toBeNull()
  expect(await stub.forget()).toBe(false)
  expect(await runDurableObjectAlarm(stub)).toBe(false)
})

test('asking for what never was stores nothing', async () => {
  const stub = open()
  expect(await stub.read()).toBeNull()
  const keys = await runInDurableObject(stub, (_, state) => [...state.storage.kv.list()])
  expect(keys).toEqual([])
})

test('what is too large to keep is refused, not cut', async () => {
  const stub = open()
  const kept = { response: '{}', conversation: 'x'.repeat(17 * 1_048_576) }
  expect(await stub.keep(kept)).toBe(false)
  expect(await stub.read()).toBeNull()
})
