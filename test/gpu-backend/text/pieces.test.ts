import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createServedModel } from '../../../gpu-backend/api/served-model.ts'
import { createDetokenizer } from '../../../gpu-backend/decode/detokenizer.ts'
import { readPieceTokenizer } from '../../../gpu-backend/model/piece-tokenizer-json.ts'
import { readSentencePieceModel } from '../../../gpu-backend/model/sentencepiece-model.ts'
import { createTokenizer } from '../../../gpu-backend/text/tokenizer.ts'
import { TINY_CONFIG } from '../../support/tiny-model.ts'
import {
  PIECE_VECTORS,
  PIECES_MODEL,
  sourceOfPieces,
  TINY_PIECES,
} from '../../support/tiny-pieces.ts'

const { cases, tokenizerJson, metaspace } = PIECE_VECTORS

const tokenizerOf = {
  sentencepiece: createTokenizer(sourceOfPieces(TINY_PIECES)),
  legacy: createTokenizer(sourceOfPieces(readPieceTokenizer(tokenizerJson))),
  first: createTokenizer(sourceOfPieces(readPieceTokenizer(withMetaspace(metaspace.first)))),
  always: createTokenizer(sourceOfPieces(readPieceTokenizer(withMetaspace(metaspace.always)))),
}

function withMetaspace(preTokenizer: object) {
  return { ...tokenizerJson, normalizer: null, pre_tokenizer: preTokenizer }
}

const specials = tokenizerOf.sentencepiece.specials
const text = fc.string({ unit: 'binary' })
const spicedText = fc
  .array(
    fc.oneof(text, fc.constantFrom(...specials, '<s', '>', ' ', '  ', '<0x41>', '<|note|>', 'aaa')),
  )
  .map((parts) => parts.join(''))

describe.each(['legacy', 'first', 'always'] as const)('a tokenizer.json, blanks %s', (form) => {
  test('gives the ids of tokenizers', () => {
    for (const { text: written, [form]: ids } of cases) {
      expect([written, tokenizerOf[form].encode(written, { specials: true })]).toEqual([
        written,
        ids,
      ])
    }
  })
})

test('a tokenizer.model gives the ids of sentencepiece', () => {
  for (const { text: written, sentencepiece: ids } of cases) {
    // sentencepiece writes no blank in the middle of a text.
    const plain = tokenizerOf.sentencepiece.encode(written, { specials: false })
    expect([written, plain]).toEqual([written, ids])
  }
})

test.each(Object.keys(tokenizerOf) as (keyof typeof tokenizerOf)[])(
  'no text becomes a control token, or more tokens than it has bytes and one (%s)',
  (form) => {
    const tokenizer = tokenizerOf[form]
    fc.assert(
      fc.property(spicedText, (written) => {
        const ids = tokenizer.encode(written, { specials: false })
        expect(ids.some(tokenizer.isSpecial)).toBe(false)
        expect(ids.length).toBeLessThanOrEqual(Buffer.byteLength(written) + 1)
      }),
      { numRuns: 300 },
    )
  },
)

/** Its own sign for a blank is a blank to SentencePiece. */
const kept = (written: string) => written.toWellFormed().replaceAll('\u2581', ' ')

test('a text comes back from its tokens, BOS before it or not', () => {
  const model = createServedModel(
    {
      name: 'pieces',
      digest: `0x${'00'.repeat(32)}`,
      config: TINY_CONFIG,
      tokenizer: sourceOfPieces(TINY_PIECES),
      maxSequenceTokens: 512,
    },
    1,
  )
  fc.assert(
    fc.property(spicedText, (written) => {
      const tokens = model.encodeText(written)
      expect(model.decode(tokens)).toBe(`<s>${kept(written)}`)
      expect(model.decode(tokens.slice(1))).toBe(kept(written))
    }),
    { numRuns: 300 },
  )
})

test('what is streamed is the whole, after a prompt too', () => {
  const { encode, tokenBytes } = tokenizerOf.sentencepiece
  fc.assert(
    fc.property(spicedText, (written) => {
      const stream = createDetokenizer(tokenBytes)
      const ids = encode(written, { specials: false, continues: true })
      expect(ids.map(stream.push).join('')).toBe(kept(written))
    }),
    { numRuns: 300 },
  )
})

test('a piece that spells no character joins its neighbours', () => {
  const { encode, tokenBytes } = tokenizerOf.sentencepiece
  const ids = encode('😀', { specials: false, continues: true })
  expect(ids).toHaveLength(4)
  const stream = createDetokenizer(tokenBytes)
  expect(ids.map(stream.push)).toEqual(['', '', '', '😀'])
})

describe('a tokenizer.json with byte_fallback is refused', () => {
  const { model } = tokenizerJson
  test.each([
    ['by its normalizer', { normalizer: { type: 'NFKC' } }, 'those of Llama 2 or Mistral'],
    ['where words are split', withMetaspace({ ...metaspace.first, split: true }), 'those of Llama'],
    ['by merges of three', { model: { ...model, merges: ['a b c'] } }, 'must be two tokens'],
    ['without bytes', { model: { ...model, vocab: { '▁': 0 } } }, '0 of the 256 tokens'],
    [
      'by a token of one byte that is matched as a whole',
      { added_tokens: [{ id: 500, content: '\t' }] },
      'matches "\\t" as a whole',
    ],
  ])('%s', (_, change, message) => {
    expect(() => readPieceTokenizer({ ...tokenizerJson, ...change })).toThrow(message)
  })
})

test('a tokenizer.model that is cut off is refused', () => {
  const cut = () => readSentencePieceModel(PIECES_MODEL.subarray(0, 1001))
  expect(cut).toThrow(/^tokenizer.model/)
})
