import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readMultipart } from '../../../gpu-backend/api/multipart.ts'

const TYPE = 'multipart/form-data; boundary=b0'

async function* chunked(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}

async function collect(bytes: Buffer, contentType = TYPE, chunkSize = 7) {
  const parts: { name: string; fileName: string | null; content: Buffer }[] = []
  for await (const { name, fileName, body } of readMultipart(
    chunked(bytes, chunkSize),
    contentType,
  )) {
    const chunks: Uint8Array[] = []
    for await (const chunk of body) chunks.push(chunk)
    parts.push({ name, fileName, content: Buffer.concat(chunks) })
  }
  return parts
}

test('what FormData writes is read back, however the bytes are cut', async () => {
  const content = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.constantFrom(
      ...['\r\n--', '\r\n\r\n', '--', '\r\n--b', ''].map((text) => Buffer.from(text)),
    ),
  )
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(content, fc.boolean()), { maxLength: 4 }),
      fc.integer({ min: 1, max: 90 }),
      async (contents, chunkSize) => {
        const form = new FormData()
        contents.forEach(([bytes, isFile], index) => {
          if (isFile) form.append(`part ${index}`, new Blob([new Uint8Array(bytes)]), `f${index}`)
          else form.append(`part ${index}`, String(bytes.byteLength))
        })
        const request = new Request('http://x', { method: 'POST', body: form })
        const type = request.headers.get('content-type') ?? ''
        const parts = await collect(Buffer.from(await request.arrayBuffer()), type, chunkSize)
        expect(parts).toEqual(
          contents.map(([bytes, isFile], index) => ({
            name: `part ${index}`,
            fileName: isFile ? `f${index}` : null,
            content: Buffer.from(isFile ? bytes : String(bytes.byteLength)),
          })),
        )
      },
    ),
  )
})

test.each([
  ['', TYPE, 'ends early'],
  ['--b0\r\ncontent-disposition: form-data; name="a"\r\n\r\nhalf', TYPE, 'ends early'],
  ['--b0--', 'multipart/form-data', 'no boundary'],
  ['--b0\r\n\r\nx\r\n--b0--', TYPE, 'no name'],
  ['--b0xx', TYPE, 'something else'],
  [`--b0\r\n${'x'.repeat(9000)}\r\n\r\nx\r\n--b0--`, TYPE, 'more than 8192 bytes'],
])('the body %j is refused', async (text, type, why) => {
  await expect(collect(Buffer.from(text), type, 4000)).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringContaining(why),
  })
})
