import { createHash } from 'node:crypto'
import { Template } from '@huggingface/jinja'
import { BackendError } from '../errors.ts'
import { ModelFileError } from '../model/model-file-error.ts'
import type { TokenizerSource } from '../model/model-source.ts'
import type { ChatMessage, ToolDefinition } from './chat-message.ts'
import { escapePattern } from './escape-pattern.ts'
import type { Tokenizer } from './tokenizer.ts'
import { findToolForm } from './tool-form.ts'
import { describeTools } from './tool-prompt.ts'

export interface ChatPrompt {
  /** The prompt as the template wrote it, for hashing. */
  readonly text: string
  readonly tokens: readonly number[]
}

/**
 * Renders messages by the model's own template, up to where the assistant speaks. Only the template
 * writes control tokens: the same spelling inside a message stays text. Ids are those of encoding
 * the whole prompt wherever no message spells one. Throws {@link BackendError} when there is no
 * template or it refuses the messages.
 */
export type ChatRenderer = (
  messages: readonly ChatMessage[],
  tools?: readonly ToolDefinition[],
) => ChatPrompt

/** Throws `ModelFileError` when the template is no valid Jinja. */
export function createChatRenderer(source: TokenizerSource, tokenizer: Tokenizer): ChatRenderer {
  if (source.chatTemplate === null) return refuseChat
  const template = parseTemplate(source.chatTemplate)
  const maskable = createMaskable(tokenizer.specials)
  const form = findToolForm(source.chatTemplate)
  const knowsTools = form !== null
  return (messages, tools = []) => {
    const told = toWellFormed(knowsTools ? messages : describeTools(messages, tools))
    const toldTools = knowsTools ? toWellFormed(tools) : []
    const surroundings = [source.chatTemplate, JSON.stringify([told, toldTools])].join()
    const mask = createMask(maskable, surroundings)
    const rendered = render(template, {
      messages: mapStrings(
        told.map((message) => toTemplateMessage(message, form?.idLength ?? null)),
        mask.apply,
      ),
      ...(toldTools.length > 0 && { tools: mapStrings(toldTools, mask.apply) }),
      add_generation_prompt: true,
      bos_token: source.bosToken ?? '',
      eos_token: source.eosToken ?? '',
    })
    const tokens = tokenizer
      .splitAtSpecials(rendered)
      .flatMap((part, i) =>
        typeof part === 'number'
          ? part
          : tokenizer.encode(mask.remove(part), { specials: false, continues: i > 0 }),
      )
    const { bosTokenId } = tokenizer
    if (bosTokenId !== null && tokens[0] !== bosTokenId) tokens.unshift(bosTokenId)
    return { text: mask.remove(rendered), tokens }
  }
}

function toTemplateMessage(
  { role, content, toolCalls, toolCallId }: ChatMessage,
  idLength: number | null,
) {
  const idOf = (id: string) =>
    idLength === null ? id : createHash('sha256').update(id).digest('hex').slice(0, idLength)
  const message = {
    role,
    content,
    ...(toolCallId !== undefined && { tool_call_id: idOf(toolCallId) }),
  }
  if (!toolCalls?.length) return message
  const calls = toolCalls.map(({ id, ...call }) => ({
    id: idOf(id),
    type: 'function',
    function: call,
  }))
  return { ...message, tool_calls: calls }
}

function toWellFormed<Value>(value: Value): Value {
  return mapStrings(value, (text) => text.toWellFormed())
}

/** The same value with each string in it changed, names of properties too. */
function mapStrings<Value>(value: Value, change: (text: string) => string): Value {
  const map = (part: unknown): unknown => {
    if (typeof part === 'string') return change(part)
    if (Array.isArray(part)) return part.map(map)
    if (typeof part !== 'object' || part === null) return part
    return Object.fromEntries(
      Object.entries(part).map(([name, inner]) => [change(name), map(inner)]),
    )
  }
  return map(value) as Value // of the same shape
}

function refuseChat(): never {
  throw new BackendError(
    'invalid_request',
    'This model has no chat template; it serves completions only.',
    { param: 'messages' },
  )
}

function parseTemplate(chatTemplate: string): Template {
  try {
    return new Template(chatTemplate)
  } catch (error) {
    throw new ModelFileError('The chat template is no valid Jinja.', { cause: error })
  }
}

function render(template: Template, variables: Record<string, unknown>): string {
  try {
    return template.render(variables)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    // biome-ignore lint/style/useErrorCause: the cause stands in the detail
    throw new BackendError(
      'invalid_request',
      `The model's chat template refuses the messages: ${reason}`,
      { param: 'messages', cause: error },
    )
  }
}

interface Maskable {
  /** What could become a control token in the prompt: a whole one, or a part at an edge that the template completes. */
  readonly pattern: RegExp
  /** The characters that control tokens begin or end with. */
  readonly chars: readonly string[]
}

function createMaskable(specials: readonly string[]): Maskable {
  const wholes = specials.toSorted((left, right) => right.length - left.length)
  const cuts = wholes.flatMap((special) =>
    Array.from({ length: special.length - 1 }, (_, i) => [
      special.slice(0, i + 1),
      special.slice(i + 1),
    ]),
  )
  const anyOf = (texts: readonly (string | undefined)[]) =>
    [...new Set(texts)].map((text) => escapePattern(text ?? '')).join('|') || '(?!)'
  const whole = anyOf(wholes)
  const head = `^\\s*(?:${anyOf(cuts.map(([, tail]) => tail))})`
  const tail = `(?:${anyOf(cuts.map(([start]) => start))})\\s*$`
  return {
    pattern: new RegExp(`${whole}|${head}|${tail}`, 'g'),
    chars: [...new Set(specials.flatMap((special) => [special.slice(0, 1), special.slice(-1)]))],
  }
}

/** Replaces the characters that would make a control token by private-use ones that `surroundings` does not contain. */
function createMask({ pattern, chars }: Maskable, surroundings: string) {
  let codePoint = 0xe000
  const standIns = chars.map(() => {
    while (surroundings.includes(String.fromCodePoint(codePoint))) codePoint++
    return String.fromCodePoint(codePoint++)
  })
  const swap = (text: string, from: readonly string[], to: readonly string[]) =>
    from.reduce((swapped, char, i) => swapped.replaceAll(char, () => to[i] ?? ''), text)
  return {
    apply: (content: string) => content.replace(pattern, (match) => swap(match, chars, standIns)),
    remove: (rendered: string) => swap(rendered, standIns, chars),
  }
}
