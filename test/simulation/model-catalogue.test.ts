import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { createModelCatalogue } from '../../worker/dispatch/model-catalogue.ts'

const LIST = {
  object: 'list',
  data: [{ id: 'toy', object: 'model', created: 0, owned_by: 'test' }],
}

/** A backend whose answers to `GET /v1/models` the test gives. */
async function startBackend() {
  const waiting: ServerResponse[] = []
  const server = createServer((_, response) => {
    waiting.push(response)
    server.emit('asked')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const next = async () => {
    if (waiting.length === 0) await once(server, 'asked')
    return waiting.shift()!
  }
  return { backend: { id: 'one', url: `http://127.0.0.1:${port}`, draining: false }, next }
}

test('a backend that fails one request and answers another at the same time is reachable for both', async () => {
  const { backend, next } = await startBackend()
  const catalogue = createModelCatalogue([backend], () => {})
  const asked = [catalogue.refresh(), catalogue.refresh()]
  const [first, second] = [await next(), await next()]
  second.setHeader('content-type', 'application/json').end(JSON.stringify(LIST))
  await Promise.race(asked)
  first.destroy()
  for (const [snapshot] of await Promise.all(asked)) {
    expect(snapshot).toMatchObject({ isReachable: true, models: [{ id: 'toy' }] })
  }
})

test('a backend that has fallen silent keeps its list, and is unreachable', async () => {
  const { backend, next } = await startBackend()
  const catalogue = createModelCatalogue([backend], () => {})
  const before = catalogue.refresh()
  ;(await next()).setHeader('content-type', 'application/json').end(JSON.stringify(LIST))
  await before
  const beganAtMs = Date.now()
  while (Date.now() === beganAtMs) await new Promise((resolve) => setImmediate(resolve))
  const after = catalogue.refresh()
  ;(await next()).destroy()
  expect(await after).toMatchObject([{ isReachable: false, models: [{ id: 'toy' }] }])
})
