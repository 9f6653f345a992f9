import { join } from 'node:path'
import { damage, readUpload, type UploadFiles } from './adapter-files.ts'
import { parseAnswer } from './answers.ts'

type Random = () => number

/** The name of a content; null: none is registered. */
export type Served = string | null

interface Slot {
  readonly id: string
  serving: Served
  /** What the change under way leads to; undefined: none is under way. */
  next: Served | undefined
  isUploaded: boolean
  /** What each request under way may find. */
  readonly watchers: Set<Set<Served>>
}

export interface Guest {
  readonly id: string
  readonly content: string
  readonly isUploaded: boolean
}

interface ChurnOptions {
  readonly url: string
  /** Where the contents lie. */
  readonly folder: string
  readonly contents: readonly string[]
  readonly random: Random
  readonly complain: (what: string) => void
}

/** Adapter ids whose content changes while requests name them, one change of an id at a time. */
export class Churn {
  readonly #options: ChurnOptions
  readonly #slots: readonly Slot[]
  readonly counts = { registered: 0, uploaded: 0, deleted: 0, refused: 0, cut: 0 }

  constructor(options: ChurnOptions, idCount: number) {
    this.#options = options
    this.#slots = Array.from({ length: idCount }, (_, index) => ({
      id: `guest-${index}`,
      serving: null,
      next: undefined,
      isUploaded: false,
      watchers: new Set(),
    }))
  }

  /** An id, and the contents that a request of it may be answered by until `end` is called. */
  watch() {
    const slot = this.#pick(this.#slots)
    const allowed = new Set([slot.serving])
    if (slot.next !== undefined) allowed.add(slot.next)
    slot.watchers.add(allowed)
    return { id: slot.id, allowed, end: () => slot.watchers.delete(allowed) }
  }

  /** What is registered when nothing is under way. */
  list(): readonly Guest[] {
    return this.#slots.flatMap(({ id, serving, isUploaded }) =>
      serving === null ? [] : [{ id, content: serving, isUploaded }],
    )
  }

  /** One change, or one try that must not change anything. */
  async act(): Promise<void> {
    const idle = this.#slots.filter(({ next }) => next === undefined)
    if (idle.length === 0) return
    const slot = this.#pick(idle)
    const { random, contents } = this.#options
    const drawn = random()
    if (drawn < 0.2) return this.#refused(slot)
    if (drawn < 0.3) return this.#cut(slot)
    const next = drawn < 0.5 ? null : this.#pick(contents)
    slot.next = next
    for (const allowed of slot.watchers) allowed.add(next)
    if (next === null) await this.#delete(slot)
    else if (drawn < 0.75) await this.#register(slot, next)
    else await this.#upload(slot, next)
    slot.next = undefined
  }

  async #delete(slot: Slot): Promise<void> {
    const status = await this.#call('DELETE', `/v1/adapters/${slot.id}`, null)
    // What was refused at its first registration is listed as failed.
    const isRight = status === 200 || (status === 404 && slot.serving === null)
    if (!isRight) this.#complain(slot, `deleted: ${status}`)
    slot.serving = null
    this.counts.deleted += 1
  }

  /** Twice at once, now and then: the second shares the work of the first. */
  async #register(slot: Slot, content: string): Promise<void> {
    const body = JSON.stringify({ id: slot.id, path: content })
    const times = this.#options.random() < 0.2 ? 2 : 1
    const calls = Array.from({ length: times }, () => this.#call('POST', '/v1/adapters', body))
    for (const status of await Promise.all(calls)) {
      if (status !== 201) this.#complain(slot, `registered: ${status}`)
    }
    slot.serving = content
    slot.isUploaded = false
    this.counts.registered += 1
  }

  async #upload(slot: Slot, content: string): Promise<void> {
    const files = await readUpload(join(this.#options.folder, content))
    const status = await this.#call('POST', '/v1/adapters', this.#form(slot, files))
    if (status !== 201) this.#complain(slot, `uploaded: ${status}`)
    slot.serving = content
    slot.isUploaded = true
    this.counts.uploaded += 1
  }

  async #refused(slot: Slot): Promise<void> {
    const { folder, contents, random } = this.#options
    const files = damage(await readUpload(join(folder, this.#pick(contents))), random)
    const status = await this.#call('POST', '/v1/adapters', this.#form(slot, files))
    if (status !== 422) this.#complain(slot, `sent ${[...files.keys()]}, damaged: ${status}`)
    this.counts.refused += 1
  }

  /** An upload whose caller leaves in the middle. */
  async #cut(slot: Slot): Promise<void> {
    const { folder, contents, url, random } = this.#options
    const form = this.#form(slot, await readUpload(join(folder, this.#pick(contents))))
    const request = new Request(`${url}/v1/adapters`, { method: 'POST', body: form })
    const bytes = new Uint8Array(await request.arrayBuffer())
    const part = bytes.subarray(0, Math.floor(random() * (bytes.length - 100)))
    const body = new ReadableStream({
      start: (controller) => controller.enqueue(part),
      pull: async (controller) => {
        await new Promise((resolve) => setTimeout(resolve, random() * 20))
        controller.error(new Error('the caller left'))
      },
    })
    const headers = { 'content-type': request.headers.get('content-type') ?? '' }
    const init = { method: 'POST', headers, body, duplex: 'half' } as const
    const response = await fetch(`${url}/v1/adapters`, init).catch(() => null)
    if (response?.ok) this.#complain(slot, 'registered from half an upload')
    await response?.body?.cancel()
    this.counts.cut += 1
  }

  #form(slot: Slot, files: UploadFiles): FormData {
    const form = new FormData()
    form.append('id', slot.id)
    for (const [name, bytes] of files) form.append(name, new Blob([Uint8Array.from(bytes)]), name)
    return form
  }

  async #call(method: string, path: string, body: string | FormData | null): Promise<number> {
    const response = await fetch(this.#options.url + path, { method, body })
    const answer = parseAnswer(await response.text())
    if (response.status >= 500) {
      this.#options.complain(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`)
    }
    return response.status
  }

  #complain(slot: Slot, what: string): void {
    this.#options.complain(`${slot.id}, which serves ${slot.serving}, was ${what}`)
  }

  #pick<Item>(items: readonly Item[]): Item {
    return items[Math.floor(this.#options.random() * items.length)] as Item // none of the lists is empty
  }
}
