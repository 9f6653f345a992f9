import { z } from 'zod'
import { BackendError } from '../errors.ts'
import { messageSchema } from './chat-messages.ts'
import { readJsonBody } from './json-body.ts'
import { requireModel } from './models.ts'
import { refuseFarTooLong } from './prompt-limit.ts'
import { textSchema, unsupportedUnless } from './sampling-fields.ts'
import type { ServedModel } from './served-model.ts'
import type { BackendContext, Services } from './services.ts'
import { planTools, toolFields } from './tool-fields.ts'

/** vLLM's `POST /tokenize`: of a text, or of a conversation as the model is asked it. */
const tokenizeSchema = z
  .object({
    model: z.string().min(1).nullish(),
    prompt: textSchema.nullish(),
    messages: z.array(messageSchema).min(1).nullish(),
    tools: toolFields.tools,
    add_special_tokens: z.boolean().nullish(),
    return_token_strs: z.boolean().nullish(),
    add_generation_prompt: unsupportedUnless([true], 'only true is supported'),
    continue_final_message: unsupportedUnless([false], 'only false is supported'),
    chat_template: unsupportedUnless([], "only the model's own template is supported"),
    chat_template_kwargs: unsupportedUnless([], "only the model's own template is supported"),
  })
  .refine(({ prompt, messages }) => (prompt == null) !== (messages == null), {
    path: ['prompt'],
    message: "give either this or 'messages'",
  })
  .refine(({ messages, add_special_tokens: adds }) => messages == null || adds !== true, {
    path: ['add_special_tokens'],
    message: "the template adds them to 'messages'",
  })

/** Says which tokens a prompt has. Costs the engine nothing. */
export async function answerTokenize(c: BackendContext, services: Services): Promise<Response> {
  const fields = await readJsonBody(c, tokenizeSchema, services.maxBodyBytes)
  requireModel(fields.model, services, c.var.tenant)
  const { model } = services
  const tokens = encode(fields, model)
  return c.json({
    count: tokens.length,
    max_model_len: model.contextTokens,
    tokens,
    token_strs: fields.return_token_strs
      ? tokens.map((token) => Buffer.from(model.tokenBytes(token)).toString())
      : null,
  })
}

function encode(
  { prompt, messages, tools, add_special_tokens: adds }: z.output<typeof tokenizeSchema>,
  model: ServedModel,
): readonly number[] {
  const { contextTokens, encodeText } = model
  const told = planTools({ tools }).told
  const texts = messages?.map(({ content, toolCalls }) => content + JSON.stringify(toolCalls ?? ''))
  refuseFarTooLong([...(texts ?? [prompt ?? '']), JSON.stringify(told)], {
    contextTokens,
    encode: encodeText,
    param: messages ? 'messages' : 'prompt',
  })
  if (messages) return model.encodeChat(messages, told).tokens
  const tokens = encodeText(prompt ?? '')
  return adds === false ? tokens.slice(encodeText('').length) : tokens
}

const detokenizeSchema = z.object({
  model: z.string().min(1).nullish(),
  tokens: z.array(z.int().min(0)),
})

/** vLLM's `POST /detokenize`: the text of tokens, control tokens spelled out. */
export async function answerDetokenize(c: BackendContext, services: Services): Promise<Response> {
  const fields = await readJsonBody(c, detokenizeSchema, services.maxBodyBytes)
  requireModel(fields.model, services, c.var.tenant)
  const { model } = services
  const unknownAt = fields.tokens.findIndex((token) => token >= model.vocabSize)
  if (unknownAt !== -1) {
    const param = `tokens[${unknownAt}]`
    const message = `'${param}': the vocabulary has ${model.vocabSize} tokens`
    throw new BackendError('invalid_request', message, { param })
  }
  return c.json({ prompt: model.decode(fields.tokens) })
}
