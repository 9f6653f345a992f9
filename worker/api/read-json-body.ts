import { isJsonObject, type JsonObject } from '../dispatch/answer-parts.ts'
import { joinBytes } from '../dispatch/join-bytes.ts'
import type { Config } from '../env.ts'
import { ApiError } from '../errors.ts'

export interface JsonBody {
  readonly value: JsonObject
  /** As they came. */
  readonly bytes: Uint8Array
}

/** Of a body that is larger, so much is read at once. */
const PART_BYTES = 16_384

type BodyLimits = Pick<Config, 'MAX_BODY_BYTES' | 'BODY_TIMEOUT_MS'>

/** Deeper bodies serve no request and overflow the stack of whoever writes them out again. */
const MAX_DEPTH = 64

/**
 * What is somewhat too large is read on and thrown away: a client that is cut off while it sends
 * reports a broken connection instead of our answer.
 */
const READ_ON_FACTOR = 4

/** The request's JSON object. Throws an ApiError for any other body; keeps no more than the limit. */
export async function readJsonBody(request: Request, limits: BodyLimits): Promise<JsonBody> {
  const contentType = request.headers.get('content-type') ?? ''
  if (!/^application\/(json|[\w.-]+\+json)\s*(;|$)/i.test(contentType)) {
    throw new ApiError('unsupported_media_type')
  }
  const bytes = await readBytes(request, limits)
  const value = parseJson(bytes)
  if (!isJsonObject(value)) {
    throw new ApiError('invalid_request', { message: 'The body must be a JSON object.' })
  }
  if (isDeeperThan(value, MAX_DEPTH)) {
    throw new ApiError('invalid_request', {
      message: `The body is nested more than ${MAX_DEPTH} levels deep.`,
    })
  }
  return { value, bytes }
}

async function readBytes(request: Request, limits: BodyLimits): Promise<Uint8Array> {
  const maxSizeBytes = limits.MAX_BODY_BYTES
  const tooLarge = () =>
    new ApiError('request_too_large', {
      message: `The body is larger than ${maxSizeBytes} bytes.`,
    })
  const mostReadBytes = maxSizeBytes * READ_ON_FACTOR
  const statedSizeBytes = Number(request.headers.get('content-length') ?? Number.NaN)
  if (statedSizeBytes > mostReadBytes) throw tooLarge()
  const chunks: Uint8Array[] = []
  let sizeBytes = 0
  const isLarge = statedSizeBytes > PART_BYTES
  const open = isLarge ? openInParts(statedSizeBytes) : undefined
  for await (const chunk of readInTime(request, limits.BODY_TIMEOUT_MS, open)) {
    sizeBytes += chunk.length
    if (sizeBytes > mostReadBytes) break
    if (sizeBytes <= maxSizeBytes) chunks.push(chunk)
    if (sizeBytes === statedSizeBytes) break // without another turn for the end
  }
  if (sizeBytes > maxSizeBytes) throw tooLarge()
  return joinBytes(chunks)
}

type BodyReader = Pick<ReadableStreamDefaultReader<Uint8Array>, 'read' | 'cancel'>

/**
 * Reads a body of a known size in full parts: each read costs a turn of the event loop, and a part that
 * was not full would hold its memory all the same.
 */
function openInParts(sizeBytes: number): (body: ReadableStream) => BodyReader {
  return (body) => {
    const reader = body.getReader({ mode: 'byob' })
    let leftBytes = sizeBytes
    return {
      read: () => {
        const part = new Uint8Array(Math.min(leftBytes, PART_BYTES))
        leftBytes -= part.length
        return reader.readAtLeast(part.length, part)
      },
      cancel: (reason) => reader.cancel(reason),
    }
  }
}

/** The body's chunks, until nobody asks for more. Throws an ApiError when they end too early, or too late. */
export async function* readInTime(
  request: Request,
  timeoutMs: number,
  open: (body: ReadableStream) => BodyReader = (body) => body.getReader(),
): AsyncGenerator<Uint8Array> {
  if (request.body === null) return
  const reader = open(request.body)
  let isLate = false
  const timer = setTimeout(() => {
    isLate = true
    reader.cancel().catch(() => {}) // what was being read fails with it
  }, timeoutMs)
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value
  } catch (cause) {
    if (isLate) throw new ApiError('request_timeout', { cause })
    throw new ApiError('invalid_request', { message: 'The body broke off.', cause })
  } finally {
    clearTimeout(timer)
  }
  if (isLate) throw new ApiError('request_timeout')
}

/** What the parsers throw is dropped: their messages quote the input, which no log may hold. */
function parseJson(bytes: Uint8Array): unknown {
  const text = decodeUtf8(bytes)
  if (text === null) throw new ApiError('invalid_json', { message: 'The body is not valid UTF-8.' })
  const value = tryParse(text)
  if (value === undefined) throw new ApiError('invalid_json')
  return value
}

function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch {
    return null
  }
}

/** Undefined for what is no JSON. */
function tryParse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isDeeperThan(value: unknown, levelCount: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (levelCount === 0) return true
  return Object.values(value).some((child) => isDeeperThan(child, levelCount - 1))
}
