import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createSseScanner } from '../../../worker/dispatch/sse-frames.ts'

const encode = (text: string) => new TextEncoder().encode(text)
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

function scanAll(chunks: readonly Uint8Array[]) {
  const scanner = createSseScanner()
  const frames = chunks.flatMap((chunk) => scanner.push(chunk))
  return { frames, rest: scanner.rest() }
}

/** Cuts bytes at the given places, in any order, duplicates and all. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const sorted = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length].sort(
    (a, b) => a - b,
  )
  return sorted.slice(1).map((end, index) => bytes.subarray(sorted[index], end))
}

test('frames are the same wherever the stream is cut, and no byte is lost', () => {
  const line = fc.constantFrom('data: {"a":"é😀"}', 'data:x', ': ping', 'event: e', 'data', '')
  const end = fc.constantFrom('\n', '\r\n', '\r')
  const stream = fc
    .tuple(fc.array(line, { maxLength: 24 }), end)
    .map(([lines, lineEnd]) => lines.map((text) => text + lineEnd).join(''))
  fc.assert(
    fc.property(stream, fc.array(fc.nat(), { maxLength: 30 }), (text, places) => {
      const bytes = encode(text)
      const whole = scanAll([bytes])
      const pieces = scanAll(cut(bytes, places))
      expect(pieces.frames.map((frame) => frame.data)).toEqual(whole.frames.map((f) => f.data))
      const joined = [...pieces.frames.map((frame) => decode(frame.bytes)), decode(pieces.rest)]
      expect(joined.join('')).toBe(text)
    }),
    { seed: 20_261_123, numRuns: 500 },
  )
})

test('data lines are joined, comments have none, and an unfinished frame is the rest', () => {
  const { frames, rest } = scanAll([encode(': hi\n\ndata: a\ndata:b\n\ndata: [DONE]\n\ndata: cut')])
  expect(frames.map((frame) => frame.data)).toEqual([null, 'a\nb', '[DONE]'])
  expect(decode(rest)).toBe('data: cut')
})
