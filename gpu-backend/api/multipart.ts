import { BackendError } from '../errors.ts'

export interface MultipartPart {
  readonly name: string
  /** Null: a plain field. */
  readonly fileName: string | null
  /** To be read to its end, or not at all, before the next part is asked for. */
  readonly body: AsyncIterable<Uint8Array>
}

const MAX_HEADER_BYTES = 8_192

/**
 * The parts of a `multipart/form-data` body (RFC 7578) as they come: nothing is held back but what
 * may be the beginning of a boundary. Throws `invalid_request` for a body that is not well formed or ends early.
 */
export async function* readMultipart(
  body: AsyncIterable<Uint8Array>,
  contentType: string,
): AsyncGenerator<MultipartPart> {
  const boundary = findBoundary(contentType)
  const reader = createReader(body)
  const delimiter = Buffer.from(`\r\n--${boundary}`)
  // The first boundary has no line before it; one is put there, so that all are alike.
  reader.unread(Buffer.from('\r\n'))
  for await (const _ of reader.readUntil(delimiter));
  for (;;) {
    if (await isLast(reader)) return
    const { name, fileName } = parseHeaders(await readHeaders(reader))
    const content = reader.readUntil(delimiter)
    yield { name, fileName, body: content }
    for await (const _ of content);
  }
}

/** After a boundary stands a line break, or `--` after the last one. */
async function isLast(reader: Reader): Promise<boolean> {
  const next = (await reader.read(2)).toString('latin1')
  if (next === '--') return true
  if (next === '\r\n') return false
  throw malformed('a boundary is followed by something else than a line break')
}

async function readHeaders(reader: Reader): Promise<string> {
  // A part without headers would begin with the empty line.
  reader.unread(Buffer.from('\r\n'))
  const chunks: Uint8Array[] = []
  let sizeBytes = 0
  for await (const chunk of reader.readUntil(Buffer.from('\r\n\r\n'))) {
    sizeBytes += chunk.byteLength
    if (sizeBytes > MAX_HEADER_BYTES) {
      throw malformed(`the headers of a part have more than ${MAX_HEADER_BYTES} bytes`)
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

function parseHeaders(headers: string) {
  const disposition = /^content-disposition:\s*form-data\s*;(.*)$/im.exec(headers)?.[1] ?? ''
  const parameter = (key: string) =>
    new RegExp(`(?:^|;)\\s*${key}="((?:[^"\\\\]|\\\\.)*)"`, 'i').exec(disposition)?.[1] ?? null
  const name = parameter('name')
  if (name === null) throw malformed('a part has no name')
  return { name, fileName: parameter('filename') }
}

function findBoundary(contentType: string): string {
  const [, quoted, plain] =
    /;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))/i.exec(contentType) ?? []
  const boundary = quoted ?? plain
  if (boundary === undefined) throw malformed('its content-type names no boundary')
  return boundary
}

type Reader = ReturnType<typeof createReader>

/** Bytes of a stream by count or up to a mark. */
function createReader(body: AsyncIterable<Uint8Array>) {
  const source = body[Symbol.asyncIterator]()
  let held: Buffer = Buffer.alloc(0)

  const fill = async () => {
    const { done, value } = await source.next().catch((cause: unknown) => {
      if (cause instanceof BackendError) throw cause
      throw malformed('it ends early', cause)
    })
    if (done) throw malformed('it ends early')
    held = held.byteLength === 0 ? Buffer.from(value) : Buffer.concat([held, value])
  }
  const take = (count: number) => {
    const taken = held.subarray(0, count)
    held = held.subarray(count)
    return taken
  }

  return {
    unread: (bytes: Buffer) => {
      held = Buffer.concat([bytes, held])
    },
    read: async (count: number): Promise<Buffer> => {
      while (held.byteLength < count) await fill()
      return take(count)
    },
    /** The bytes before the mark, which is skipped; reading again after the end gives nothing. */
    readUntil: (mark: Buffer): AsyncIterable<Uint8Array> => {
      let isDone = false
      async function* read() {
        while (!isDone) {
          const at = held.indexOf(mark)
          if (at >= 0) {
            isDone = true
            const rest = take(at)
            take(mark.byteLength)
            yield rest
            return
          }
          const safe = held.byteLength - mark.byteLength + 1
          if (safe > 0) yield take(safe)
          if (!isDone) await fill()
        }
      }
      return { [Symbol.asyncIterator]: read }
    },
  }
}

function malformed(why: string, cause?: unknown): BackendError {
  return new BackendError('invalid_request', `The multipart body cannot be read: ${why}.`, {
    cause,
  })
}
