import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { TokenizerSource } from '../../../gpu-backend/model/model-source.ts'
import { createTokenizer, type Tokenizer } from '../../../gpu-backend/text/tokenizer.ts'
import { tinyTokenizerJson } from '../../support/tiny-model.ts'
import { TINY_SPECIALS, TINY_TOKENS } from '../../support/tiny-tokenizer.ts'

interface TokenizerVectors {
  readonly cases: readonly {
    text: string
    specials: readonly number[]
    plain: readonly number[]
  }[]
}

const vectors: TokenizerVectors = JSON.parse(
  readFileSync(new URL('../../vectors/tiny-tokenizer.json', import.meta.url), 'utf8'),
)

const source: TokenizerSource = {
  vocabulary: { kind: 'byteLevel', tokenizerJson: tinyTokenizerJson() },
  chatTemplate: null,
  bosToken: '<|im_start|>',
  eosToken: '<|im_end|>',
  eosTokenIds: [2],
  addBos: false,
}

const tokenizer = createTokenizer(source)

const text = fc.string({ unit: 'binary' })
const spicedText = fc
  .array(fc.oneof(text, fc.constantFrom(...TINY_SPECIALS, '<|', 'im_end|>')))
  .map((parts) => parts.join(''))

function decode({ tokenBytes }: Tokenizer, ids: readonly number[]): string {
  return Buffer.concat(ids.map(tokenBytes)).toString()
}

describe('createTokenizer', () => {
  it.each(vectors.cases)('gives the ids of the reference for $text', (vector) => {
    expect(tokenizer.encode(vector.text, { specials: true })).toEqual(vector.specials)
    expect(tokenizer.encode(vector.text, { specials: false })).toEqual(vector.plain)
  })

  it('never makes a control token of a text, and loses no byte of it', () => {
    fc.assert(
      fc.property(spicedText, (written) => {
        const ids = tokenizer.encode(written, { specials: false })
        expect(ids.some(tokenizer.isSpecial)).toBe(false)
        expect(decode(tokenizer, ids)).toBe(written.toWellFormed())
      }),
      { numRuns: 500 },
    )
  })

  it('never makes more tokens than bytes', () => {
    fc.assert(
      fc.property(text, (written) => {
        const { length } = tokenizer.encode(written, { specials: false })
        expect(length).toBeLessThanOrEqual(Buffer.byteLength(written))
      }),
    )
  })

  it('takes a lone surrogate as U+FFFD', () => {
    const ids = tokenizer.encode('a\ud800b', { specials: false })
    expect(decode(tokenizer, ids)).toBe('a\ufffdb')
  })

  it('knows its control tokens and the bytes of the others', () => {
    expect(tokenizer.vocabSize).toBe(TINY_TOKENS.length)
    expect(TINY_TOKENS.map((_, id) => id).filter(tokenizer.isSpecial)).toEqual([0, 1, 2])
    expect(tokenizer.tokenBytes(1)).toHaveLength(0)
    expect(tokenizer.tokenBytes(999_999)).toHaveLength(0)
    expect(tokenizer.tokenBytes(3 + 0xe2)).toEqual(Uint8Array.of(0xe2))
  })

  it('names the BOS token only where a prompt wants it', () => {
    expect(tokenizer.bosTokenId).toBeNull()
    expect(createTokenizer({ ...source, addBos: true }).bosTokenId).toBe(1)
  })

  it('lets a control token that says so swallow the blanks beside it', () => {
    const json = tinyTokenizerJson()
    const strips = { id: 304, content: '<strip>', special: true, lstrip: true, rstrip: true }
    const stripping = createTokenizer({
      ...source,
      vocabulary: {
        kind: 'byteLevel',
        tokenizerJson: { ...json, added_tokens: [...json.added_tokens, strips] },
      },
    })
    const ids = stripping.encode('a <strip> b', { specials: true })
    expect(ids).toEqual([
      ...stripping.encode('a', { specials: false }),
      304,
      ...stripping.encode('b', { specials: false }),
    ])
  })

  it('matches added tokens that are no control tokens in any text', () => {
    const json = tinyTokenizerJson()
    const spaces = { id: 304, content: '        ', special: false }
    const indenting = createTokenizer({
      ...source,
      vocabulary: {
        kind: 'byteLevel',
        tokenizerJson: { ...json, added_tokens: [...json.added_tokens, spaces] },
      },
    })
    expect(indenting.encode('        x', { specials: false })[0]).toBe(304)
    expect(indenting.tokenBytes(304)).toEqual(new Uint8Array(8).fill(0x20))
  })
})
