import { z } from 'zod'
import { parseFields, readBytes, readJson, readText } from './folder-files.ts'
import { ModelFileError } from './model-file-error.ts'
import type { TokenizerSource } from './model-source.ts'
import { isPieceTokenizer, readPieceTokenizer } from './piece-tokenizer-json.ts'
import type { PieceVocabulary } from './piece-vocabulary.ts'
import { readSentencePieceModel } from './sentencepiece-model.ts'

/** An id or a list of ids, as a list. */
export const tokenIdsSchema = z
  .union([z.int().transform((id) => [id]), z.array(z.int())])
  .nullish()
  .transform((ids) => ids ?? null)

const tokenText = z
  .union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)])
  .nullish()

const tokenizerConfigSchema = z.object({
  bos_token: tokenText,
  eos_token: tokenText,
  add_bos_token: z.boolean().nullish(),
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish(),
})

const generationConfigSchema = z.object({ eos_token_id: tokenIdsSchema })

const byteLevelSchema = z.looseObject({
  model: z.looseObject({ type: z.literal('BPE'), vocab: z.record(z.string(), z.int()) }),
  added_tokens: z.array(z.looseObject({ id: z.int(), content: z.string() })).default([]),
})

/** What the tokenizer's own file says. */
interface TokenizerFile {
  readonly vocabulary: TokenizerSource['vocabulary']
  readonly tokenCount: number
  readonly idOf: (token: string | null | undefined) => number | undefined
  /** Whether a prompt begins with the BOS token of this id, where `tokenizer_config.json` does not say so. */
  readonly addsBos: (id: number | undefined) => boolean
}

/**
 * Reads `tokenizer.json` (without one, `tokenizer.model`), `tokenizer_config.json`,
 * `generation_config.json` and the chat template of a folder. `configEosIds` are those of
 * `config.json`, for a folder without generation config. Rejects with {@link ModelFileError}.
 */
export async function readFolderTokenizer(
  dir: string,
  configEosIds: readonly number[] | null,
): Promise<{ tokenizer: TokenizerSource; tokenCount: number }> {
  const file = await readTokenizerFile(dir)
  const optional = { optional: true }
  const config = parseFields(
    tokenizerConfigSchema,
    (await readJson(dir, 'tokenizer_config.json', optional)) ?? {},
    'tokenizer_config.json',
  )
  const generation = parseFields(
    generationConfigSchema,
    (await readJson(dir, 'generation_config.json', optional)) ?? {},
    'generation_config.json',
  )
  const eosId = file.idOf(config.eos_token)
  const tokenizer: TokenizerSource = {
    vocabulary: file.vocabulary,
    chatTemplate: await readChatTemplate(dir, config.chat_template),
    bosToken: config.bos_token ?? null,
    eosToken: config.eos_token ?? null,
    eosTokenIds: generation.eos_token_id ?? configEosIds ?? (eosId === undefined ? [] : [eosId]),
    addBos: config.add_bos_token ?? file.addsBos(file.idOf(config.bos_token)),
  }
  return { tokenizer, tokenCount: file.tokenCount }
}

async function readTokenizerFile(dir: string): Promise<TokenizerFile> {
  const json = await readJson(dir, 'tokenizer.json', { optional: true })
  if (json === null) {
    const model = await readBytes(dir, 'tokenizer.model')
    if (model !== null) return describePieces(readSentencePieceModel(model), () => true)
    throw new ModelFileError('tokenizer.json is missing or cannot be read.')
  }
  const { post_processor: postProcessor } = z.looseObject({}).parse(json)
  const addsBos = (id: number | undefined) => startsWithToken(postProcessor, id)
  if (isPieceTokenizer(json)) return describePieces(readPieceTokenizer(json), addsBos)
  const fields = parseFields(byteLevelSchema, json, 'tokenizer.json')
  if (!JSON.stringify([fields.pre_tokenizer, fields.decoder]).includes('"ByteLevel"')) {
    throw new ModelFileError(
      'tokenizer.json: only BPE is supported, byte-level or with byte_fallback.',
    )
  }
  return {
    vocabulary: { kind: 'byteLevel', tokenizerJson: fields },
    tokenCount: largestId(fields) + 1,
    idOf: (token) => fields.added_tokens.find(({ content }) => content === token)?.id,
    addsBos,
  }
}

function describePieces(
  vocabulary: PieceVocabulary,
  addsBos: TokenizerFile['addsBos'],
): TokenizerFile {
  const { tokens } = vocabulary
  const idOf = (token: string | null | undefined) => {
    const id = tokens.findIndex(({ text, type }) => text === token && type === 'control')
    return id < 0 ? undefined : id
  }
  return { vocabulary, tokenCount: tokens.length, idOf, addsBos }
}

function largestId({ model, added_tokens }: z.infer<typeof byteLevelSchema>): number {
  let largest = -1
  for (const id of Object.values(model.vocab)) largest = Math.max(largest, id)
  for (const { id } of added_tokens) largest = Math.max(largest, id)
  return largest
}

/** `chat_template.jinja` where there is one, as transformers has it, else the field of the tokenizer's config. */
async function readChatTemplate(
  dir: string,
  field: z.infer<typeof tokenizerConfigSchema>['chat_template'],
): Promise<string | null> {
  const file = await readText(dir, 'chat_template.jinja', { optional: true })
  if (file !== null) return file
  if (!Array.isArray(field)) return field ?? null
  return field.find(({ name }) => name === 'default')?.template ?? null
}

/** Whether a `TemplateProcessing`, alone or in a sequence, writes this token before a text. */
function startsWithToken(postProcessor: unknown, id: number | undefined): boolean {
  const template = z.object({
    single: z.tuple([z.object({ SpecialToken: z.object({ id: z.string() }) })], z.unknown()),
    special_tokens: z.record(z.string(), z.object({ ids: z.array(z.int()) })),
  })
  const sequence = z.object({ processors: z.array(z.unknown()) })
  const processors = sequence.safeParse(postProcessor).data?.processors ?? [postProcessor]
  return processors.some((processor) => {
    const { data } = template.safeParse(processor)
    const name = data?.single[0].SpecialToken.id
    return name !== undefined && id !== undefined && data?.special_tokens[name]?.ids[0] === id
  })
}
