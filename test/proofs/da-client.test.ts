import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type DaStandIn, startDaStandIn } from '../../scripts/da-stand-in.ts'
import { createDaClient } from '../../worker/proofs/da-client.ts'
import { createTemporaryFolder, type TemporaryFolder } from '../support/temporary-folder.ts'

const payload = Uint8Array.of(84, 71, 66, 1)
const waits: number[] = []

const clientOf = (url: string, timeoutMs = 10_000) =>
  createDaClient({ url, timeoutMs, sleep: async (ms) => void waits.push(ms) })

describe('against the stand-in, which answers as the real proxy', () => {
  let folder: TemporaryFolder
  let da: DaStandIn

  beforeEach(async () => {
    folder = await createTemporaryFolder()
    da = await startDaStandIn({ port: 0, stateDir: folder.path })
  })

  afterEach(async () => {
    await da.close()
    await folder.remove()
  })

  const configure = (config: object) =>
    fetch(`${da.url}/memstore/config`, { method: 'PATCH', body: JSON.stringify(config) })

  it('reads back what it put, by a commitment in standard mode', async () => {
    // A slash at the end of the configured URL must not lead to the `/put/` of another mode.
    const client = clientOf(`${da.url}/`)
    const put = await client.put(payload)
    if (put.outcome !== 'stored') throw new Error(put.reason)
    expect(put.commitment).toMatch(/^0x03(..){300,}$/)
    const got = await client.get(put.commitment)
    expect(got).toEqual({ outcome: 'found', payload })
  })

  it('fails over where the proxy says so', async () => {
    await configure({ PutReturnsFailoverError: true })
    expect(await clientOf(da.url).put(payload)).toMatchObject({
      outcome: 'fail_over',
      reason: expect.stringContaining('503'),
    })
  })

  it('fails over where the dispersal does not end in time', async () => {
    await configure({ PutLatency: '2s' })
    expect(await clientOf(da.url, 50).put(payload)).toEqual({
      ...{ outcome: 'fail_over', reason: 'the DA proxy did not answer in time' },
    })
  })

  it('knows a payload that no blob can hold', async () => {
    expect(await clientOf(da.url).put(new Uint8Array(16_777_217))).toMatchObject({
      outcome: 'too_large',
    })
  })

  it('finds no blob that is missing or must be dropped', async () => {
    const client = clientOf(da.url)
    expect(await client.get(`0x03${'ab'.repeat(400)}`)).toMatchObject({
      outcome: 'failed',
      reason: expect.stringMatching(/answered 500: .*payload not found for key/s),
    })
    await configure({ NullableDerivationError: { StatusCode: 3, Msg: 'bad', Reset: false } })
    const put = await client.put(payload)
    if (put.outcome !== 'stored') throw new Error(put.reason)
    expect(await client.get(put.commitment)).toMatchObject({
      outcome: 'failed',
      reason: expect.stringContaining('answered 418'),
    })
  })
})

describe('against what the stand-in never answers', () => {
  let server: Server

  afterEach(() => new Promise((resolve) => server.close(resolve)))

  const serve = async (listener: RequestListener) => {
    server = createServer(listener).listen(0, '127.0.0.1')
    await once(server, 'listening')
    // A listening TCP server's address has a port.
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  it('slows down when asked to, longer each time, and gives up in the end', async () => {
    let busyCount = 3
    const url = await serve((_req, res) => {
      busyCount -= 1
      if (busyCount >= 0) res.writeHead(429).end()
      else res.end(Uint8Array.of(3, 1, 2))
    })
    waits.length = 0
    expect(await clientOf(url).put(payload)).toEqual({ outcome: 'stored', commitment: '0x030102' })
    expect(waits).toEqual([1_000, 2_000, 4_000])
    busyCount = 100
    expect(await clientOf(url).put(payload)).toMatchObject({ outcome: 'failed' })
  })

  it('takes no commitment of another mode', async () => {
    const url = await serve((_req, res) => res.end(Uint8Array.of(1, 0, 3, 0xf9)))
    expect(await clientOf(url).put(payload)).toEqual({
      ...{
        outcome: 'failed',
        reason: 'the DA proxy gave a commitment of another mode (0x010003…)',
      },
    })
  })
})
