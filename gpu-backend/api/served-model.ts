import type { Digest } from '../../protocol/digest.ts'
import type { ModelConfig, TokenizerSource } from '../model/model-source.ts'
import { type ChatRenderer, createChatRenderer } from '../text/chat-template.ts'
import { createTokenizer } from '../text/tokenizer.ts'
import { findToolForm, HERMES_FORM, type ToolForm } from '../text/tool-form.ts'

/** The base model as the API presents it. */
export interface ServedModel {
  readonly id: string
  readonly digest: Digest
  /** Prompt and answer together, in tokens: the model's context, or the KV cache where that is smaller. */
  readonly contextTokens: number
  readonly vocabSize: number
  /** Values of an embedding. */
  readonly hiddenSize: number
  /** Tokens that end an answer. */
  readonly stopTokenIds: readonly number[]
  /** Requests that can run in one step: each may name another adapter. */
  readonly maxBatchSize: number
  /** A plain prompt, begun as the model wants it. A control token's spelling stays text. */
  readonly encodeText: (text: string) => readonly number[]
  /** The bytes of a token, a control token's spelling. */
  readonly tokenBytes: (token: number) => Uint8Array
  /** The text that is encoded to these tokens, control tokens spelled out. */
  readonly decode: (tokens: readonly number[]) => string
  /** A conversation up to where the assistant speaks. Throws BackendError where the template refuses it. */
  readonly encodeChat: ChatRenderer
  /** How its answers hold calls. */
  readonly toolForm: ToolForm
}

interface OpenedModel {
  readonly name: string
  readonly digest: Digest
  readonly config: ModelConfig
  readonly tokenizer: TokenizerSource
  readonly maxSequenceTokens: number
}

/** The text side of a model, on the HTTP thread. Throws ModelFileError when its chat template is not valid. */
export function createServedModel(
  { name, digest, config, tokenizer: source, maxSequenceTokens }: OpenedModel,
  maxBatchSize: number,
): ServedModel {
  const tokenizer = createTokenizer(source)
  const { bosTokenId } = tokenizer
  const spellings = new Map(
    tokenizer.specials.map((special) => [
      tokenizer.encode(special, { specials: true })[0],
      Buffer.from(special),
    ]),
  )
  const tokenBytes = (token: number) => spellings.get(token) ?? tokenizer.tokenBytes(token)
  return {
    id: name,
    digest,
    contextTokens: maxSequenceTokens,
    vocabSize: config.vocabSize,
    hiddenSize: config.hiddenSize,
    stopTokenIds: source.eosTokenIds,
    maxBatchSize,
    encodeText: (text) => {
      const tokens = tokenizer.encode(text, { specials: false })
      return bosTokenId === null ? tokens : [bosTokenId, ...tokens]
    },
    tokenBytes,
    decode: (tokens) => {
      const begun = tokens[0] === bosTokenId ? 1 : 0
      const text = (part: readonly number[]) => Buffer.concat(part.map(tokenBytes)).toString()
      const rest = text(tokens.slice(begun))
      return text(tokens.slice(0, begun)) + (tokenizer.addsBlank ? rest.replace(/^ /, '') : rest)
    },
    encodeChat: createChatRenderer(source, tokenizer),
    toolForm: findToolForm(source.chatTemplate ?? '') ?? HERMES_FORM,
  }
}
