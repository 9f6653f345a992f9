import { REQUEST_ID_HEADER, TENANT_HEADER, TIER_HEADER, TIERS } from '../../../protocol/backend.ts'
import {
  type AnswerBook,
  createStreamReader,
  digestWhole,
  essence,
  findDifference,
  parseAnswer,
} from './answers.ts'
import type { Churn, Served } from './churn.ts'
import type { BadRequest, SoakRequest } from './requests.ts'

type Random = () => number

export interface LoadOptions {
  readonly url: string
  /** The base model's name. */
  readonly model: string
  /** Adapters that stay as they are. */
  readonly owns: readonly string[]
  readonly requests: readonly SoakRequest[]
  readonly badRequests: readonly BadRequest[]
  readonly book: AnswerBook
  readonly churn: Churn
  readonly random: Random
  readonly complain: (what: string) => void
}

interface Target {
  readonly model: string
  readonly allowed: ReadonlySet<Served>
  readonly end: () => void
}

/** Random load, each answer of which is compared with the right one. */
export class Load {
  readonly #options: LoadOptions
  readonly counts = { answered: 0, left: 0, missing: 0, overloaded: 0, refused: 0 }
  /** Requests whose caller left, since the list was last emptied. */
  readonly leftIds: string[] = []
  /** By caller. */
  readonly #sentCounts = new Map<number, number>()

  constructor(options: LoadOptions) {
    this.#options = options
  }

  /** So many callers, one request after another each, until the time is over. */
  async run(callerCount: number, untilMs: number): Promise<void> {
    const call = async (caller: number) => {
      while (Date.now() < untilMs) await this.#act(caller)
    }
    await Promise.all(Array.from({ length: callerCount }, (_, caller) => call(caller)))
  }

  async #act(caller: number): Promise<void> {
    const { random, churn } = this.#options
    const drawn = random()
    if (drawn < 0.08) return churn.act()
    if (drawn < 0.13) return this.#askBadly()
    const target = this.#pickTarget()
    try {
      await this.#ask(caller, this.#pick(this.#options.requests), target)
    } finally {
      target.end()
    }
  }

  #pickTarget(): Target {
    const { random, model, owns, churn } = this.#options
    const drawn = random()
    const end = () => undefined
    if (drawn < 0.25) return { model, allowed: new Set([model]), end }
    const named = (id: string) => (random() < 0.5 ? id : `${model}:${id}`)
    if (drawn < 0.65) {
      const own = this.#pick(owns)
      return { model: named(own), allowed: new Set([own]), end }
    }
    const { id, ...watch } = churn.watch()
    return { model: named(id), ...watch }
  }

  /**
   * A caller's ids come round again, so that what the backend remembers of each stays bounded, but not
   * before a request that was left has ended.
   */
  #headers(caller: number): Record<string, string> {
    const { random } = this.#options
    const sentCount = (this.#sentCounts.get(caller) ?? 0) + 1
    this.#sentCounts.set(caller, sentCount)
    return {
      [REQUEST_ID_HEADER]: `req_caller${caller}x${sentCount % 64}`,
      [TENANT_HEADER]: `tenant-${Math.floor(random() * 5)}`,
      [TIER_HEADER]: this.#pick(TIERS),
    }
  }

  async #ask(caller: number, request: SoakRequest, target: Target): Promise<void> {
    const { url, random, complain } = this.#options
    const isStream = request.path !== '/v1/embeddings' && random() < 0.5
    const options = isStream ? { stream: true, stream_options: { include_usage: true } } : {}
    const headers = this.#headers(caller)
    const leaving = new AbortController()
    const timer =
      random() < 0.15 ? setTimeout(() => leaving.abort(), 400 * random() ** 2) : undefined
    try {
      const response = await fetch(url + request.path, {
        method: 'POST',
        headers,
        body: JSON.stringify({ ...request.body, ...options, model: target.model }),
        signal: leaving.signal,
      })
      if (response.status !== 200) await this.#judgeRefusal(response, request, target)
      else if (isStream) await this.#judgeStream(response, { request, target, leaving })
      else await this.#judgeWhole(response, request, target)
    } catch (error) {
      if (!leaving.signal.aborted) {
        complain(`${request.name} of ${target.model} broke off: ${describe(error)}`)
      }
      this.counts.left += 1
      this.leftIds.push(headers[REQUEST_ID_HEADER] ?? '')
    } finally {
      clearTimeout(timer)
    }
  }

  async #judgeRefusal(response: Response, request: SoakRequest, target: Target): Promise<void> {
    const { error } = parseAnswer(await response.text())
    const waitS = Number(response.headers.get('retry-after') ?? Number.NaN)
    if (response.status === 429 && error?.code === 'overloaded' && waitS > 0) {
      this.counts.overloaded += 1
    } else if (error?.code === 'model_not_found' && target.allowed.has(null)) {
      this.counts.missing += 1
    } else {
      const said = `${response.status} ${JSON.stringify(error)}`
      this.#options.complain(`${request.name} of ${target.model}: ${said}`)
    }
  }

  async #judgeWhole(response: Response, request: SoakRequest, target: Target): Promise<void> {
    const body = parseAnswer(await response.text())
    const found = await this.#findRight(request, target, body.tallygate?.adapter_digest ?? null)
    if (found && found.whole !== digestWhole(body)) {
      const difference = findDifference(essence(body), essence(found.body))
      this.#complainWrong(request, target, difference ?? '')
    }
    this.counts.answered += 1
  }

  async #judgeStream(
    response: Response,
    {
      request,
      target,
      leaving,
    }: { request: SoakRequest; target: Target; leaving: AbortController },
  ): Promise<void> {
    const reader = createStreamReader()
    const decoder = new TextDecoder()
    let frameCount = this.#options.random() < 0.1 ? Math.floor(this.#options.random() * 20) : -1
    try {
      for await (const chunk of response.body ?? []) {
        reader.push(decoder.decode(chunk, { stream: true }))
        if (frameCount-- === 0) leaving.abort()
      }
    } catch (error) {
      if (leaving.signal.aborted) await this.#judgeBeginning(request, target, reader.texts)
      throw error
    }
    const found = await this.#findRight(request, target, reader.adapterDigest)
    if (reader.error || (found && found.stream !== reader.digest())) {
      const said = JSON.stringify({ error: reader.error, texts: reader.texts })
      this.#complainWrong(request, target, `${said} instead of ${JSON.stringify(found?.texts)}`)
    }
    this.counts.answered += 1
  }

  /** What came before the caller left is the beginning of a right answer. */
  async #judgeBeginning(request: SoakRequest, target: Target, texts: readonly string[]) {
    const { book } = this.#options
    const contents = [...target.allowed].filter((content) => content !== null)
    const answers = await Promise.all(contents.map((content) => book.find(request, content)))
    const isBeginning = answers.some((answer) =>
      texts.every((text, index) => (answer.texts[index] ?? '').startsWith(text)),
    )
    if (!isBeginning) this.#complainWrong(request, target, `it began with ${JSON.stringify(texts)}`)
  }

  /** The right answer of the content that the answer says it is from; null after a complaint that it may not be. */
  async #findRight(request: SoakRequest, { model, allowed }: Target, digest: string | null) {
    const { book, complain } = this.#options
    for (const content of allowed) {
      if (content === null) continue
      const answer = await book.find(request, content)
      if (answer.adapterDigest === digest) return answer
    }
    complain(`${request.name} of ${model} was answered by ${digest}, not by ${[...allowed]}`)
    return null
  }

  #complainWrong(request: SoakRequest, { model }: Target, how: string): void {
    this.#options.complain(`wrong: ${request.name} of ${model}: ${how.slice(0, 2_000)}`)
  }

  async #askBadly(): Promise<void> {
    const { url, badRequests, complain } = this.#options
    const { method, path, body, headers = {}, status, code } = this.#pick(badRequests)
    const response = await fetch(url + path, { method, body, headers })
    const { error } = parseAnswer(await response.text())
    if (response.status !== status || error?.code !== code) {
      const asked = `${method} ${path} ${body?.slice(0, 80)}`
      complain(`${asked}: ${response.status} ${error?.code} instead of ${status} ${code}`)
    }
    this.counts.refused += 1
  }

  #pick<Item>(items: readonly Item[]): Item {
    return items[Math.floor(this.#options.random() * items.length)] as Item // none of the lists is empty
  }
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause ? `${error.message}: ${String(error.cause)}` : error.message
}
