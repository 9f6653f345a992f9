import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { keccak256 } from 'viem'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { type DaStandIn, startDaStandIn } from '../../scripts/da-stand-in.ts'

interface Exchange {
  readonly name: string
  readonly method: string
  readonly path: string
  readonly req?: string
  readonly reqLen?: number
  readonly status: number
  readonly contentType: string | null
  readonly res: string
}

const recorded = JSON.parse(
  await readFile(join(import.meta.dirname, '../vectors/eigenda-proxy-exchanges.json'), 'utf8'),
) as { out: Exchange[] }

let stateDir: string
let clockMs = 0
let da: DaStandIn

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'da-'))
  da = await startDaStandIn({ port: 0, stateDir, nowMs: () => clockMs })
})

afterEach(async () => {
  await da.close()
  await rm(stateDir, { recursive: true })
})

it('answers each of 30 recorded exchanges as the real proxy did', async () => {
  // The proxy was recorded with the expiry of its memory.
  await request('PATCH', '/memstore/config', Buffer.from('{"BlobExpiration":"25m"}'))
  /** Commitments of the recording and what the stand-in gave instead. */
  const commitments: [recorded: string, ours: string][] = []
  for (const exchange of recorded.out) {
    const [path, hexes] = translate(exchange.path, commitments)
    if (exchange.name === 'get expired') clockMs += 1_000
    const body =
      exchange.req === undefined
        ? Buffer.alloc(exchange.reqLen ?? 0, 7)
        : Buffer.from(exchange.req, 'hex')
    const answer = await request(exchange.method, path, body)
    const context = `${exchange.name}: ${answer.body.toString('latin1').slice(0, 200)}`
    expect(answer.status, context).toBe(exchange.status)
    expect(answer.contentType, context).toBe(exchange.contentType)
    if (exchange.method === 'POST' && exchange.status === 200) {
      const [theirs, ours] = [exchange.res, answer.body.toString('hex')]
      const prefix = /^(0100)?03f9/.exec(theirs)?.[0] ?? 'none'
      expect(ours.startsWith(prefix), context).toBe(true)
      commitments.push([theirs, ours])
    } else {
      expect(answer.body.toString(), exchange.name).toBe(expectedText(exchange, hexes))
    }
  }
})

it('gives two commitments for one payload put twice, and keeps both over a restart', async () => {
  const payload = Buffer.from([0, 1, 2, 255])
  const put = () => request('POST', '/put?commitment_mode=standard', payload)
  const [first, second] = [(await put()).body, (await put()).body]
  expect(first.equals(second)).toBe(false)
  await da.close()
  da = await startDaStandIn({ port: 0, stateDir, nowMs: () => clockMs })
  for (const commitment of [first, second]) {
    const path = `/get/0x${commitment.toString('hex')}?commitment_mode=standard`
    expect((await request('GET', path)).body.equals(payload)).toBe(true)
  }
})

it('names the port that is taken', async () => {
  const port = Number(new URL(da.url).port)
  await expect(startDaStandIn({ port, stateDir })).rejects.toThrow(`127.0.0.1:${port}`)
})

async function request(method: string, path: string, body: Buffer = Buffer.alloc(0)) {
  const init = method === 'GET' ? { method } : { method, body: new Uint8Array(body) }
  const response = await fetch(da.url + path, init)
  return {
    status: response.status,
    contentType: response.headers.get('content-type'),
    body: Buffer.from(await response.arrayBuffer()),
  }
}

/** The recorded path with our commitment in it, damaged in the same way as the recorded one. */
function translate(
  path: string,
  commitments: readonly [string, string][],
): [path: string, hexes: [string, string] | null] {
  const hex = /^\/get\/(?:0x)?(0[0-9a-f]{600,})/.exec(path)?.[1]
  if (hex === undefined) return [path, null]
  const known = commitments.find(([theirs]) => theirs.slice(2, 600) === hex.slice(2, 600))
  if (known === undefined) throw new Error(`unknown commitment in ${path}`)
  const [theirs, ours] = known
  const cut = ours.slice(2, ours.length - (theirs.length - hex.length))
  const isTailChanged = hex.length === theirs.length && hex.slice(2) !== theirs.slice(2)
  const changed = isTailChanged ? `${cut.slice(0, -2)}${cut.endsWith('00') ? '01' : '00'}` : cut
  const translated = hex.slice(0, 2) + changed
  return [path.replace(hex, translated), [hex, translated]]
}

function expectedText(exchange: Exchange, hexes: [string, string] | null): string {
  const text = Buffer.from(exchange.res, 'hex').toString()
  if (hexes === null) return text
  const [theirs, ours] = hexes.map((hex) => hex.slice(2)) as [string, string]
  const key = ours.length % 2 === 0 ? keccak256(`0x${ours}`).slice(2) : ''
  return text.replaceAll(theirs, ours).replace(/key: [0-9a-f]{64}/, `key: ${key}`)
}
