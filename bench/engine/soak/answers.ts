import { createHash } from 'node:crypto'
import type { SoakRequest } from './requests.ts'

/** What an answer must be, to the last bit: as digests of the whole body and of the stream, and the texts. */
export interface ExpectedAnswer {
  /** Zero for the base model. */
  readonly adapterDigest: string
  readonly whole: string
  readonly stream: string
  readonly texts: readonly string[]
  /** For complaints. */
  readonly body: AnswerBody
}

interface Choice {
  readonly index: number
  readonly finish_reason: string | null
  readonly text?: string
  readonly message?: { readonly content: string | null }
  readonly delta?: { readonly content?: string | null }
}

export interface AnswerBody {
  readonly choices?: readonly Choice[]
  readonly data?: readonly object[]
  readonly usage?: Readonly<Record<string, unknown>> | null
  readonly tallygate?: { readonly adapter_digest: string }
  readonly error?: { readonly code: string; readonly message: string } | null
}

/**
 * Of our own backend. V8 may read an escaped key of one character as a backslash
 * (nodejs/node#63785), and `top_logprobs` has such keys: they are renamed.
 */
export function parseAnswer(text: string): AnswerBody {
  const keys = /(?<=[{,])"\\(u[0-9a-f]{4}|[^u])":/g
  const rename = (_: string, code: string) => `"escaped ${Buffer.from(code).toString('hex')}":`
  return JSON.parse(text.replaceAll(keys, rename)) as AnswerBody
}

const digest = (value: unknown) => createHash('sha256').update(JSON.stringify(value)).digest('hex')

const textOf = ({ text, message }: Choice) => text ?? message?.content ?? ''

/** Ids, times and what the prefix cache had may differ; nothing else may. */
export function essence({ choices, data, usage, tallygate }: AnswerBody) {
  const { prompt_tokens_details: _, ...counts } = usage ?? {}
  return { choices, data, counts, tallygate }
}

export function digestWhole(body: AnswerBody): string {
  return digest(essence(body))
}

function expectAnswer(body: AnswerBody): ExpectedAnswer {
  const choices = body.choices ?? []
  const texts = choices.map(textOf)
  const reasons = choices.map(({ finish_reason }) => finish_reason)
  return {
    adapterDigest: body.tallygate?.adapter_digest ?? '',
    whole: digestWhole(body),
    stream: digestStream(body, texts, reasons),
    texts,
    body,
  }
}

/** Where two values first differ, and how; null: nowhere. */
export function findDifference(said: unknown, right: unknown, path = ''): string | null {
  if (Object.is(said, right)) return null
  const isAlike = isObject(said) && isObject(right)
  if (!isAlike || Object.keys(said).join() !== Object.keys(right).join()) {
    return `${path}: ${JSON.stringify(said)} instead of ${JSON.stringify(right)}`
  }
  for (const key of Object.keys(right)) {
    const found = findDifference(said[key], right[key], `${path}.${key}`)
    if (found !== null) return found
  }
  return null
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}

function digestStream(
  body: AnswerBody,
  texts: readonly string[],
  reasons: readonly (string | null)[],
): string {
  return digest({ ...essence({ ...body, choices: [] }), texts, reasons })
}

/** Puts a stream together, chunk by chunk. */
export function createStreamReader() {
  const texts: string[] = []
  const reasons: (string | null)[] = []
  let last: AnswerBody = {}
  let isDone = false
  let held = ''
  return {
    texts,
    get error() {
      return last.error ?? null
    },
    get adapterDigest() {
      return last.tallygate?.adapter_digest ?? null
    },
    /** Null until the stream has said that it is done. */
    digest: () => (isDone ? digestStream(last, texts, reasons) : null),
    push: (text: string) => {
      const frames = (held + text).split('\n\n')
      held = frames.pop() ?? ''
      for (const frame of frames) {
        const data = frame.replace(/^data: /, '')
        if (data === '[DONE]') {
          isDone = true
          continue
        }
        last = parseAnswer(data)
        for (const choice of last.choices ?? []) {
          const { index, finish_reason, delta } = choice
          texts[index] = (texts[index] ?? '') + (choice.text ?? delta?.content ?? '')
          reasons[index] = finish_reason
        }
      }
    },
  }
}

/**
 * The right answers, from a backend that runs one request at a time and caches no prompts: asked for
 * when first needed, and then remembered.
 */
export class AnswerBook {
  readonly #url: string
  readonly #known = new Map<string, Promise<ExpectedAnswer>>()
  #tail: Promise<unknown> = Promise.resolve()

  constructor(url: string) {
    this.#url = url
  }

  get size(): number {
    return this.#known.size
  }

  find(request: SoakRequest, model: string): Promise<ExpectedAnswer> {
    const key = `${model} ${request.name}`
    const known = this.#known.get(key)
    if (known) return known
    const asked = this.#tail.then(() => this.#ask(request, model))
    this.#tail = asked.catch(() => undefined) // whoever asked is told
    this.#known.set(key, asked)
    return asked
  }

  async #ask({ path, body }: SoakRequest, model: string): Promise<ExpectedAnswer> {
    const response = await fetch(this.#url + path, {
      method: 'POST',
      body: JSON.stringify({ ...body, model }),
    })
    const answer = parseAnswer(await response.text())
    if (response.status === 200) return expectAnswer(answer)
    throw new Error(`${model} alone answered ${response.status}: ${JSON.stringify(answer)}`)
  }
}
