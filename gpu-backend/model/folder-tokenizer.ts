import { z } from 'zod'
import { parseFields, readJson, readText } from './folder-files.ts'
import { ModelFileError } from './model-file-error.ts'
import type { TokenizerSource } from './model-source.ts'

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

const tokenizerSchema = z.looseObject({
  model: z.looseObject({
    type: z.literal('BPE', 'only byte-level BPE is supported'),
    vocab: z.record(z.string(), z.int()),
  }),
  added_tokens: z.array(z.looseObject({ id: z.int(), content: z.string() })).default([]),
})

/**
 * Reads `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and the chat template of a
 * folder. `configEosIds` are those of `config.json`, for a folder without generation config.
 * Rejects with {@link ModelFileError}.
 */
export async function readFolderTokenizer(
  dir: string,
  configEosIds: readonly number[] | null,
): Promise<{ tokenizer: TokenizerSource; tokenCount: number }> {
  const json = parseFields(tokenizerSchema, await readJson(dir, 'tokenizer.json'), 'tokenizer.json')
  if (!JSON.stringify([json.pre_tokenizer, json.decoder]).includes('"ByteLevel"')) {
    throw new ModelFileError('tokenizer.json: only byte-level BPE is supported.')
  }
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
  const idOf = (token: string | null | undefined) =>
    json.added_tokens.find(({ content }) => content === token)?.id
  const bosId = idOf(config.bos_token)
  const eosId = idOf(config.eos_token)
  const tokenizer: TokenizerSource = {
    tokenizerJson: json,
    chatTemplate: await readChatTemplate(dir, config.chat_template),
    bosToken: config.bos_token ?? null,
    eosToken: config.eos_token ?? null,
    eosTokenIds: generation.eos_token_id ?? configEosIds ?? (eosId === undefined ? [] : [eosId]),
    addBos: config.add_bos_token ?? startsWithToken(json.post_processor, bosId),
  }
  return { tokenizer, tokenCount: largestId(json) + 1 }
}

function largestId({ model, added_tokens }: z.infer<typeof tokenizerSchema>): number {
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
