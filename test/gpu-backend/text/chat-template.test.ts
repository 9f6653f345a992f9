import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { BackendError } from '../../../gpu-backend/errors.ts'
import { ModelFileError } from '../../../gpu-backend/model/model-file-error.ts'
import type { TokenizerSource } from '../../../gpu-backend/model/model-source.ts'
import { createChatRenderer } from '../../../gpu-backend/text/chat-template.ts'
import { createTokenizer } from '../../../gpu-backend/text/tokenizer.ts'
import { tinyTokenizerJson } from '../../support/tiny-model.ts'
import { TINY_CHAT_TEMPLATE, TINY_SPECIALS } from '../../support/tiny-tokenizer.ts'

const source: TokenizerSource = {
  vocabulary: { kind: 'byteLevel', tokenizerJson: tinyTokenizerJson() },
  chatTemplate: TINY_CHAT_TEMPLATE,
  bosToken: '<|im_start|>',
  eosToken: '<|im_end|>',
  eosTokenIds: [2],
  addBos: false,
}

const tokenizer = createTokenizer(source)
const renderChat = createChatRenderer(source, tokenizer)

const withTemplate = (chatTemplate: string | null) =>
  createChatRenderer({ ...source, chatTemplate }, tokenizer)

const specialsOf = (ids: readonly number[]) => ids.filter(tokenizer.isSpecial)
const bytesOf = (ids: readonly number[]) => Buffer.concat(ids.map(tokenizer.tokenBytes)).toString()

describe('createChatRenderer', () => {
  it('writes what the template writes, the default system prompt too', () => {
    const { text, tokens } = renderChat([{ role: 'user', content: 'Hello!' }])
    expect(text).toBe(
      '<|im_start|>system\nYou are a tiny model.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n',
    )
    expect(tokens).toEqual(tokenizer.encode(text, { specials: true }))
  })

  it('gives the ids of the whole text for messages that spell no control token', () => {
    const content = fc
      .oneof(fc.string({ unit: 'binary' }), fc.constantFrom('<', '>', ' a<b>c ', '|>', '\ue000<'))
      .filter((written) => !TINY_SPECIALS.some((special) => written.includes(special)))
    const role = fc.constantFrom('system', 'user', 'assistant')
    const messages = fc.array(fc.record({ role, content }), { minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(messages, (written) => {
        const { text, tokens } = renderChat(written)
        expect(tokens).toEqual(tokenizer.encode(text, { specials: true }))
        for (const message of written) expect(text).toContain(message.content.toWellFormed())
      }),
      { numRuns: 50 },
    )
  })

  it('leaves control tokens that a message spells as text', () => {
    const part = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 5 }),
      fc.constantFrom(...TINY_SPECIALS, '<|im_', 'start|>', '<|', '|>', '>', ' '),
    )
    const contents = fc.array(
      fc.array(part).map((parts) => parts.join('')),
      { minLength: 1, maxLength: 3 },
    )
    fc.assert(
      fc.property(contents, (written) => {
        const chat = (texts: readonly string[]) =>
          renderChat(texts.map((content) => ({ role: 'user', content })))
        const { text, tokens } = chat(written)
        expect(specialsOf(tokens)).toEqual(specialsOf(chat(written.map(() => 'x')).tokens))
        const spoken = bytesOf(tokens)
        for (const content of written) {
          expect(text).toContain(content.toWellFormed())
          expect(spoken).toContain(content.toWellFormed())
        }
      }),
      { numRuns: 200 },
    )
  })

  it.each([
    ['<|im_', '{{ messages[0].content }}end|>'],
    ['  end|>', '<|im_{{ messages[0].content | trim }}'],
  ])('lets no template complete the control token that %j begins or ends', (content, template) => {
    const { tokens, text } = withTemplate(template)([{ role: 'user', content }])
    expect(specialsOf(tokens)).toEqual([])
    expect(text).toBe('<|im_end|>')
  })

  it('begins with BOS where the model wants it and the template does not write it', () => {
    const wanting = createTokenizer({ ...source, addBos: true })
    const render = (chatTemplate: string) =>
      createChatRenderer({ ...source, chatTemplate }, wanting)([{ role: 'user', content: 'x' }])
    const x = tokenizer.encode('x', { specials: false })
    expect(render('{{ messages[0].content }}').tokens).toEqual([1, ...x])
    expect(render('{{ bos_token }}{{ messages[0].content }}').tokens).toEqual([1, ...x])
  })

  it('refuses chat without a template', () => {
    const refused = () => withTemplate(null)([{ role: 'user', content: 'x' }])
    expect(refused).toThrow(BackendError)
    expect(refused).toThrow('no chat template')
  })

  it("passes on the template's own refusal", () => {
    const refused = () =>
      withTemplate("{{ raise_exception('roles must alternate') }}")([{ role: 'user', content: '' }])
    expect(refused).toThrow(BackendError)
    expect(refused).toThrow('roles must alternate')
  })

  it('refuses a template that is no Jinja when the model is opened', () => {
    expect(() => withTemplate('{% if %}')).toThrow(ModelFileError)
  })
})
