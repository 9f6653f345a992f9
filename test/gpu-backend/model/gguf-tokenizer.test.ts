import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { GgufValue } from '../../../gpu-backend/model/gguf.ts'
import { readGgufTokenizer } from '../../../gpu-backend/model/gguf-tokenizer.ts'
import { createTokenizer } from '../../../gpu-backend/text/tokenizer.ts'
import { TINY_MERGES, TINY_TOKENS } from '../../support/tiny-tokenizer.ts'

type PreTokenizerVectors = Readonly<
  Record<
    'llama-bpe' | 'qwen2' | 'tekken',
    readonly { readonly text: string; readonly ids: readonly number[] }[]
  >
>

const vectors: PreTokenizerVectors = JSON.parse(
  readFileSync(new URL('../../vectors/pre-tokenizers.json', import.meta.url), 'utf8'),
)

/** No merges spell its last token; there are no control tokens. */
function metadata(pre: string, extra: Readonly<Record<string, GgufValue>> = {}) {
  return new Map<string, GgufValue>([
    ['tokenizer.ggml.model', 'gpt2'],
    ['tokenizer.ggml.pre', pre],
    ['tokenizer.ggml.tokens', [...TINY_TOKENS, 'Ġqzx']],
    ['tokenizer.ggml.merges', [...TINY_MERGES]],
    ['tokenizer.ggml.eos_token_id', 2],
    ...Object.entries(extra),
  ])
}

const KINDS = ['llama-bpe', 'qwen2', 'tekken'] as const

describe.each(KINDS)('the pre-tokenizer %s', (pre) => {
  const tokenizer = createTokenizer(readGgufTokenizer(metadata(pre)))

  test('gives the ids of the reference', () => {
    for (const { text, ids } of vectors[pre]) {
      expect([text, tokenizer.encode(text, { specials: false })]).toEqual([text, ids])
    }
  })

  test('loses no byte of a text but what its normalizer changes', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const kept = pre === 'qwen2' ? text.toWellFormed().normalize('NFC') : text.toWellFormed()
        const ids = tokenizer.encode(text, { specials: false })
        expect(Buffer.concat(ids.map(tokenizer.tokenBytes)).toString()).toBe(kept)
      }),
      { numRuns: 200 },
    )
  })
})

test('BOS goes before a prompt where the metadata or the family says so', () => {
  const added = (pre: string, extra?: Readonly<Record<string, GgufValue>>) =>
    readGgufTokenizer(metadata(pre, extra)).addBos
  expect(KINDS.map((pre) => added(pre))).toEqual([true, false, true])
  expect(added('llama-bpe', { 'tokenizer.ggml.add_bos_token': false })).toBe(false)
  expect(added('qwen2', { 'tokenizer.ggml.add_bos_token': true })).toBe(true)
})

test('a kind that is not supported is refused by name', () => {
  const unigram = new Map([...metadata('llama-bpe'), ['tokenizer.ggml.model', 't5']])
  expect(() => readGgufTokenizer(unigram)).toThrow('"tokenizer.ggml.model" is "t5"')
})
