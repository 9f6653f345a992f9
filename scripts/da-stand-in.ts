import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { keccak256 } from 'viem'
import {
  DEFAULT_MEMSTORE_CONFIG,
  type MemstoreConfig,
  parseDurationMs,
  patchMemstoreConfig,
} from './da-memstore-config.ts'

/** The largest payload of a blob, and the most that is read of a body, bytes. */
const MAX_PAYLOAD_BYTES = 16_252_897
const MAX_BODY_BYTES = 16_777_216

/** Version byte of the certificates that are given out, and the prefix of the op-generic mode. */
const CERT_VERSION = 3
const GENERIC_PREFIX = Buffer.from([0x01, 0x00])

export interface DaStandInOptions {
  /** TCP port on 127.0.0.1; 0 takes a free one. */
  readonly port: number
  /** Where the blobs last between runs; created when missing. */
  readonly stateDir: string
  /** The clock by which blobs expire, milliseconds. */
  readonly nowMs?: () => number
}

export interface DaStandIn {
  readonly url: string
  readonly close: () => Promise<void>
}

/**
 * A local server that answers as an EigenDA proxy v2.7.0 in memstore mode does, its oddities
 * included (a missing blob is a 500, `/put/` is another mode than `/put`, a body too large is a
 * 400). Blobs are kept on disk; nothing is dispersed anywhere. Throws when the port is taken.
 */
export async function startDaStandIn(options: DaStandInOptions): Promise<DaStandIn> {
  await mkdir(options.stateDir, { recursive: true })
  const stand: StandIn = {
    stateDir: options.stateDir,
    nowMs: options.nowMs ?? Date.now,
    config: DEFAULT_MEMSTORE_CONFIG,
  }
  const server = createServer((req, res) => {
    answer(stand, req).then(
      (reply) => send(res, reply),
      (error: Error) => send(res, refuse(500, `${error.message}\n`)),
    )
  })
  server.listen(options.port, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('No TCP address.')
  return {
    url: `http://127.0.0.1:${address.port}`,
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

interface StandIn {
  readonly stateDir: string
  readonly nowMs: () => number
  config: MemstoreConfig
}

interface Reply {
  readonly status: number
  readonly contentType: string | null
  readonly body: Buffer
}

/** What lies beside a blob. */
interface BlobMeta {
  readonly storedAtMs: number
  /** The answer that later reads get instead of the blob; null: the blob. */
  readonly derivationError: MemstoreConfig['OverwritePutWithDerivationError']
}

async function answer(stand: StandIn, req: IncomingMessage): Promise<Reply> {
  const url = new URL(req.url ?? '/', 'http://localhost')
  const isStandard = url.searchParams.get('commitment_mode') === 'standard'
  switch (`${req.method} ${url.pathname}`) {
    case 'GET /health':
      return { status: 200, contentType: null, body: Buffer.alloc(0) }
    case 'GET /config':
      return reply('application/json', Buffer.from(JSON.stringify(PROXY_CONFIG)))
    case 'GET /memstore/config':
      return text(stand.config)
    case 'PATCH /memstore/config':
      stand.config = patchMemstoreConfig(stand.config, JSON.parse(`${await readBody(req)}`))
      return text(stand.config)
    case 'POST /put':
      return put(stand, await readBody(req), isStandard)
    case 'POST /put/':
      return put(stand, await readBody(req), false)
  }
  if (url.pathname === '/put') return { status: 405, contentType: null, body: Buffer.alloc(0) }
  const hex = /^\/get\/(?:0x)?([0-9a-fA-F]+)$/.exec(url.pathname)?.[1]
  if (req.method !== 'GET' || hex === undefined) return refuse(404, '404 page not found\n')
  return get(stand, isStandard ? hex : hex.replace(/^0100/, ''))
}

/** Null when the body is longer than the proxy reads. */
async function readBody(req: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  for await (const chunk of req as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length
    if (sizeBytes <= MAX_BODY_BYTES) chunks.push(chunk)
  }
  return sizeBytes > MAX_BODY_BYTES ? null : Buffer.concat(chunks)
}

async function put(stand: StandIn, body: Buffer | null, isStandard: boolean): Promise<Reply> {
  if (body === null) {
    const reason = `reading at most ${MAX_BODY_BYTES} bytes from body: http: request body too large\n`
    return refuse(400, reason)
  }
  const { config } = stand
  await sleep(parseDurationMs(config.PutLatency))
  const failure = 'post request failed: could not disperse payload to v2 backend:'
  if (config.PutReturnsFailoverError) {
    return refuse(503, `${failure} Failover: ephemeral db in failover simulation mode\n`)
  }
  if (body.length > MAX_PAYLOAD_BYTES) return refuse(500, `${failure} blob too large\n`)
  const cert = createCert()
  const meta: BlobMeta = {
    storedAtMs: stand.nowMs(),
    derivationError: config.OverwritePutWithDerivationError,
  }
  const path = blobPath(stand, cert)
  await writeFile(`${path}.json`, JSON.stringify(meta))
  await writeFile(`${path}.tmp`, body)
  await rename(`${path}.tmp`, path)
  const commitment = Buffer.concat([Buffer.from([CERT_VERSION]), cert])
  return reply(
    'application/octet-stream',
    isStandard ? commitment : Buffer.concat([GENERIC_PREFIX, commitment]),
  )
}

async function get(stand: StandIn, hex: string): Promise<Reply> {
  await sleep(parseDurationMs(stand.config.GetLatency))
  const [versionHex, certHex] = [hex.slice(0, 2), hex.slice(2)]
  const version = Number.parseInt(versionHex, 16)
  const failure = `get request failed with serializedCert (version ${version}) ${certHex}:`
  if (hex.length % 2 === 1) {
    const reason = `decoding cert from hex string: ${certHex}, error: encoding/hex: odd length hex string\n`
    return refuse(400, reason)
  }
  if (version > CERT_VERSION) {
    const reason = `unsupported version byte ${versionHex}: unknown EigenDA cert version: ${version}`
    return refuse(400, `${reason}\nparsing error: parsing version byte: ${reason}\n`)
  }
  if (version === 0) {
    return refuse(500, `${failure} V1 backend has been removed, V0 certs are no longer supported\n`)
  }
  // A certificate of an older version has another structure: this one cannot be parsed as that.
  if (version !== CERT_VERSION) return drop({ StatusCode: 1, Msg: '' })
  const cert = Buffer.from(certHex, 'hex')
  const blob = await readBlob(stand, cert)
  if (blob === null) {
    const key = keccak256(cert).slice(2)
    const reason = `failed to read from all storage backends: read from EigenDA backend: fetching entry via memstore: payload not found for key: ${key}`
    return refuse(500, `${failure} ${reason}\n`)
  }
  if (blob.meta.derivationError !== null) return drop(blob.meta.derivationError)
  return reply(sniffContentType(blob.payload), blob.payload)
}

async function readBlob(stand: StandIn, cert: Buffer) {
  const path = blobPath(stand, cert)
  try {
    const meta = JSON.parse(await readFile(`${path}.json`, 'utf8')) as BlobMeta // written by put
    const expiresAtMs = meta.storedAtMs + parseDurationMs(stand.config.BlobExpiration)
    return stand.nowMs() >= expiresAtMs ? null : { meta, payload: await readFile(path) }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

function blobPath(stand: StandIn, cert: Buffer): string {
  return join(stand.stateDir, keccak256(cert).slice(2))
}

/** Random bytes in the shape of a certificate: an RLP list whose length differs from put to put. */
function createCert(): Buffer {
  const [lengthByte = 0] = randomBytes(1)
  const list = randomBytes(403 + (lengthByte % 14))
  return Buffer.concat([Buffer.from([0xf9, list.length >> 8, list.length & 0xff]), list])
}

const PROXY_CONFIG = {
  version: 'unknown',
  chain_id: '',
  directory_address: '0x9620dC4B3564198554e4D2b06dEFB7A369D90257',
  cert_verifier_address: '',
  max_payload_size_bytes: MAX_PAYLOAD_BYTES,
  apis_enabled: ['op-generic', 'op-keccak', 'standard'],
  read_only_mode: false,
}

function reply(contentType: string, body: Buffer): Reply {
  return { status: 200, contentType, body }
}

function text(value: object): Reply {
  return reply('text/plain; charset=utf-8', Buffer.from(`${JSON.stringify(value)}\n`))
}

/** The certificate must be dropped: a client may never retry it. */
function drop(error: { StatusCode: number; Msg: string }): Reply {
  return refuse(418, `${JSON.stringify(error)}\n`)
}

function refuse(status: number, reason: string): Reply {
  return { status, contentType: 'text/plain; charset=utf-8', body: Buffer.from(reason) }
}

/** Go's `DetectContentType`, as far as batch payloads and texts go. */
function sniffContentType(body: Buffer): string {
  const isBinary = body
    .subarray(0, 512)
    .some((byte) => byte <= 0x08 || byte === 0x0b || (byte >= 0x0e && byte <= 0x1a))
  return isBinary ? 'application/octet-stream' : 'text/plain; charset=utf-8'
}

function send(res: ServerResponse, { status, contentType, body }: Reply): void {
  res.writeHead(status, {
    'content-length': String(body.length),
    ...(contentType !== null && { 'content-type': contentType }),
    ...(status >= 400 && contentType !== null && { 'x-content-type-options': 'nosniff' }),
  })
  res.end(body)
}
