import { z } from 'zod'
import type { TokenizerSource } from '../model/model-source.ts'
import { bytesOfToken } from './byte-level.ts'
import { listPieceBytes } from './piece-encoder.ts'
import { isToolMarker } from './tool-form.ts'

/** The fields of a `tokenizer.json` that say what a token is. */
export const vocabularySchema = z.looseObject({
  model: z.looseObject({ vocab: z.record(z.string(), z.int()) }),
  added_tokens: z.array(
    z.looseObject({
      id: z.int(),
      content: z.string(),
      special: z.boolean().default(false),
      lstrip: z.boolean().default(false),
      rstrip: z.boolean().default(false),
    }),
  ),
})

/**
 * [V] The exact bytes of each token by id, for detokenising: a character may be spread over several
 * tokens. Control tokens, but those that mark calls, and ids without a token are empty.
 */
export function listTokenBytes({ vocabulary }: TokenizerSource): readonly Uint8Array[] {
  if (vocabulary.kind === 'pieces') return listPieceBytes(vocabulary)
  const { model, added_tokens } = vocabularySchema.parse(vocabulary.tokenizerJson)
  const table: Uint8Array[] = []
  const encoder = new TextEncoder()
  for (const [token, id] of Object.entries(model.vocab)) {
    table[id] = bytesOfToken(token) ?? encoder.encode(token)
  }
  for (const { id, content, special } of added_tokens) {
    table[id] = special && !isToolMarker(content) ? new Uint8Array() : encoder.encode(content)
  }
  return Array.from(table, (bytes) => bytes ?? new Uint8Array())
}
