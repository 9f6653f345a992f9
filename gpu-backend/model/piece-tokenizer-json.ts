import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import { parseFields } from './folder-files.ts'
import { ModelFileError } from './model-file-error.ts'
import {
  BLANK,
  checkPieces,
  isByte,
  type PieceToken,
  type PieceVocabulary,
  type PrefixBlank,
} from './piece-vocabulary.ts'

/** Bounds what a damaged file can make the reader allocate. */
const tokenId = z
  .int()
  .min(0)
  .max(2 ** 24)

const mergeSchema = z.preprocess(
  (merge) => (typeof merge === 'string' ? merge.split(' ') : merge),
  z.tuple([z.string().min(1), z.string().min(1)], { error: 'must be two tokens' }),
)

const schema = z.looseObject({
  model: z.looseObject({
    type: z.literal('BPE'),
    vocab: z.record(z.string(), tokenId),
    merges: z.array(mergeSchema),
    ignore_merges: z.literal(false, 'is not supported with byte_fallback').nullish(),
  }),
  added_tokens: z
    .array(
      z.looseObject({
        id: tokenId,
        content: z.string().min(1),
        special: z.boolean().default(false),
        lstrip: z.boolean().default(false),
        rstrip: z.boolean().default(false),
      }),
    )
    .default([]),
  normalizer: z.unknown(),
  pre_tokenizer: z.unknown(),
})

/** Whether a `tokenizer.json` is of Llama 2's family rather than byte-level. */
export function isPieceTokenizer(json: unknown): boolean {
  const family = z.looseObject({ model: z.looseObject({ byte_fallback: z.literal(true) }) })
  return family.safeParse(json).success
}

/** Reads such a `tokenizer.json`. Throws {@link ModelFileError}. */
export function readPieceTokenizer(json: unknown): PieceVocabulary {
  const { model, added_tokens, normalizer, pre_tokenizer } = parseFields(
    schema,
    json,
    'tokenizer.json',
  )
  const tokens: PieceToken[] = []
  for (const [text, id] of Object.entries(model.vocab)) {
    tokens[id] = { text, type: isByte(text) ? 'byte' : 'piece' }
  }
  for (const { id, content: text, special, lstrip, rstrip } of added_tokens) {
    tokens[id] = { text, type: special ? 'control' : 'whole', lstrip, rstrip }
  }
  return checkPieces({
    kind: 'pieces',
    tokens: Array.from(tokens, (token) => token ?? { text: '', type: 'unused' }),
    order: { by: 'list', merges: model.merges },
    prefix: readPrefix(normalizer ?? null, pre_tokenizer ?? null),
  })
}

const PREPEND = { type: 'Prepend', prepend: BLANK }
const REPLACE = { type: 'Replace', pattern: { String: ' ' }, content: BLANK }

const metaspaceSchema = z.strictObject({
  type: z.literal('Metaspace'),
  replacement: z.literal(BLANK),
  prepend_scheme: z.enum(['always', 'first', 'never']).optional(),
  add_prefix_space: z.boolean().default(true),
  split: z.literal(false),
})

/**
 * How blanks are written: by normalizers, as converted from Llama 2 and with `legacy`, or by a
 * pre-tokenizer, as without it. Anything else is refused: it would be other ids.
 */
function readPrefix(normalizer: unknown, preTokenizer: unknown): PrefixBlank {
  const steps = z
    .object({ type: z.literal('Sequence'), normalizers: z.array(z.unknown()) })
    .safeParse(normalizer).data?.normalizers
  const normalizers = steps ?? (normalizer === null ? [] : [normalizer])
  if (preTokenizer === null) {
    if (isDeepStrictEqual(normalizers, [PREPEND, REPLACE])) {
      return { before: 'part', onlyWhereNone: false }
    }
    if (isDeepStrictEqual(normalizers, [REPLACE])) {
      return { before: 'nothing', onlyWhereNone: false }
    }
  }
  const metaspace = metaspaceSchema.safeParse(preTokenizer).data
  if (normalizers.length > 0 || !metaspace) {
    throw new ModelFileError(
      'tokenizer.json: with byte_fallback, "normalizer" and "pre_tokenizer" must be those of Llama 2 or Mistral.',
    )
  }
  const scheme = metaspace.prepend_scheme ?? (metaspace.add_prefix_space ? 'always' : 'never')
  const before = ({ always: 'part', first: 'text', never: 'nothing' } as const)[scheme]
  return { before, onlyWhereNone: true }
}
