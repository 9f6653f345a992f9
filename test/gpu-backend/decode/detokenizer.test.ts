import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createDetokenizer } from '../../../gpu-backend/decode/detokenizer.ts'

const byteToken = (id: number) => Uint8Array.of(id)

function pushAll(bytes: readonly number[]): string {
  const detokenizer = createDetokenizer(byteToken)
  return bytes.map((byte) => detokenizer.push(byte)).join('')
}

test('gives whole characters only, and drops one that the end cuts', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', 'é', '€', '😀', '\ufffd') }),
      fc.nat(),
      (text, cut) => {
        const bytes = [...new TextEncoder().encode(text)]
        const keptCount = cut % (bytes.length + 1)
        let expected = ''
        for (const character of text) {
          if (new TextEncoder().encode(expected + character).length > keptCount) break
          expected += character
        }
        expect(pushAll(bytes.slice(0, keptCount))).toBe(expected)
      },
    ),
  )
})

test('replaces invalid bytes as a decoder of the whole text does', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(0x61, 0x80, 0x9f, 0xc3, 0xe2, 0xf0, 0xff)), (bytes) => {
      const ended = [...bytes, 0x2e]
      expect(pushAll(ended)).toBe(new TextDecoder().decode(Uint8Array.from(ended)))
    }),
  )
})

test('takes tokens of several bytes, of parts of characters and of none, and keeps a byte order mark', () => {
  const pieces = [[0xef, 0xbb, 0xbf], [0x61, 0xf0, 0x9f], [], [0x98, 0x80, 0x62]]
  const detokenizer = createDetokenizer((id) => Uint8Array.from(pieces[id]!))
  expect(pieces.map((_, id) => detokenizer.push(id))).toEqual(['\ufeff', 'a', '', '😀b'])
})
