import assert from 'node:assert/strict'
import type { PageContent } from '../engine/model-runner.ts'
import {
  cacheInput,
  cacheOutput,
  listKvParts,
  NEW_SLOTS,
  PAGE_LENGTH,
  type RowGroup,
  rowGroupInputs,
} from '../model/graph-inputs.ts'
import { buildCacheGraph, buildCopyGraph, COPY_FROM, COPY_TO, FILL } from '../model/kv-graph.ts'
import type { ModelConfig } from '../model/model-source.ts'
import { int64s } from './feeds.ts'
import {
  countBudgetPages,
  createPagedRow,
  type KvStep,
  type KvStore,
  type PagedRow,
  type PageRange,
  type RunningRow,
} from './kv-store.ts'
import {
  createDeviceMemory,
  createSession,
  type DeviceMemory,
  type DeviceTensor,
  ExecutionProviderError,
  type Session,
  type SessionOptions,
  type Tensor,
} from './session.ts'

interface PageCopy {
  readonly from: number
  readonly to: number
}

/**
 * The cache in the memory of the device, where runs read and write it in place; only numbers of
 * pages go there. A page lies where its number says. One more than the engine has is always zeros.
 */
export class DevicePages implements KvStore {
  readonly pageCount: number
  readonly #zeroPage: number
  readonly #headCount: number
  readonly #memory: DeviceMemory
  /** Inputs and outputs of a run that are the same memory. */
  readonly #feeds: Readonly<Record<string, DeviceTensor>>
  readonly #deviceOutputs: Readonly<Record<string, DeviceTensor>>
  readonly #copySession: Session
  /** The row that has a page's tokens. */
  readonly #owners: (PagedRow | null)[]
  /** Pages that hold anything but zeros. */
  readonly #isUsed: Uint8Array
  /** Done before the next run, in this order. */
  #copies: PageCopy[] = []
  #nextId = 1

  static async create(
    config: ModelConfig,
    budgetTokens: number,
    options: SessionOptions,
  ): Promise<DevicePages> {
    const pageCount = countBudgetPages(budgetTokens)
    const memory = await reserve(config, pageCount, options)
    const copySession = await createSession(buildCopyGraph(config), options)
    return new DevicePages(config, pageCount, memory, copySession)
  }

  private constructor(
    config: ModelConfig,
    pageCount: number,
    memory: DeviceMemory,
    copySession: Session,
  ) {
    const parts = listKvParts(config.layerCount).map((kvPart) => {
      const tensor = memory.tensors.get(cacheInput(kvPart))
      assert(tensor, 'Every layer has keys and values.')
      return { kvPart, tensor }
    })
    this.#feeds = Object.fromEntries(
      parts.map(({ kvPart, tensor }) => [cacheInput(kvPart), tensor]),
    )
    this.#deviceOutputs = Object.fromEntries(
      parts.map(({ kvPart, tensor }) => [cacheOutput(kvPart), tensor]),
    )
    this.#memory = memory
    this.pageCount = pageCount
    this.#zeroPage = pageCount
    this.#headCount = config.kvHeadCount
    this.#copySession = copySession
    this.#owners = new Array(pageCount).fill(null)
    this.#isUsed = new Uint8Array(pageCount)
  }

  createRow(): PagedRow {
    return createPagedRow(this.#nextId++)
  }

  addPage(row: PagedRow, page: number, content: PageContent): void {
    if (content === 'empty') {
      row.emptyPages.push(page)
      return
    }
    assert(row.length === row.capacity, 'A filled page follows full ones.')
    this.#hang(row, page)
    row.length += PAGE_LENGTH
  }

  copyPage(from: number, to: number): void {
    for (const page of [from, to]) {
      assert(page in this.#owners, `Page ${page} is one of ${this.pageCount}.`)
    }
    assert(this.#owners[to] === null, `Page ${to} is no row's when another is copied into it.`)
    this.#copies.push({ from, to })
    this.#isUsed[to] = 1
  }

  freeRow(row: PagedRow): void {
    for (const page of row.pages) this.#owners[page] = null
    row.pages.length = 0
    row.emptyPages.length = 0
  }

  async prepare(rows: readonly RunningRow[]): Promise<KvStep> {
    const ranges = { decode: pickPages(rows, 'decode'), chunk: pickPages(rows, 'chunk') }
    const slots = rows.flatMap((row) => this.#planSlots(row))
    await this.#copyPages()
    return {
      ranges,
      feeds: {
        ...this.#feeds,
        [NEW_SLOTS]: int64s(slots.flat(), [slots.length / this.#headCount, this.#headCount, 4]),
        [rowGroupInputs('decode').pages]: this.#listPages(ranges.decode),
        [rowGroupInputs('chunk').pages]: this.#listPages(ranges.chunk),
      },
      outputs: [],
      int8Outputs: [],
      deviceOutputs: this.#deviceOutputs,
    }
  }

  append(rows: readonly RunningRow[]): void {
    for (const { kv, tokenCount } of rows) {
      kv.length += tokenCount
      while (kv.pages.length * PAGE_LENGTH < kv.length) {
        const page = kv.emptyPages.shift()
        assert(page !== undefined, 'A row has a page for each of its tokens.')
        this.#hang(kv, page)
      }
    }
  }

  async close(): Promise<void> {
    await this.#copySession.close()
    await this.#memory.free()
  }

  #hang(row: PagedRow, page: number): void {
    assert(page in this.#owners, `Page ${page} is one of ${this.pageCount}.`)
    assert(this.#owners[page] === null, `Page ${page} belongs to one row.`)
    this.#owners[page] = row
    row.pages.push(page)
  }

  #listPages({ pages }: DeviceRange): Tensor {
    return pages.length > 0 ? int64s(pages, [pages.length]) : int64s([this.#zeroPage], [1])
  }

  /** Where the row's new tokens go; pages that it begins are made zeros. */
  #planSlots({ kv, tokenCount }: RunningRow): Slot[] {
    const all = [...kv.pages, ...kv.emptyPages]
    return Array.from({ length: tokenCount }, (_, i) => {
      const position = (kv.length + i) % PAGE_LENGTH
      const page = all[Math.floor((kv.length + i) / PAGE_LENGTH)]
      assert(page !== undefined, 'A row has a page for each of its tokens.')
      if (position === 0) this.#clear(page)
      return this.#listHeads(page, position)
    }).flat()
  }

  /** What an earlier row left may be NaN, which no mask can hide. */
  #clear(page: number): void {
    if (this.#isUsed[page]) this.#copies.push({ from: this.#zeroPage, to: page })
    this.#isUsed[page] = 1
  }

  #listHeads(page: number, position: number): Slot[] {
    return Array.from({ length: this.#headCount }, (_, head): Slot => [page, head, 0, position])
  }

  async #copyPages(): Promise<void> {
    while (this.#copies.length > 0) {
      const batch = takeIndependent(this.#copies)
      const sources = batch.map(({ from }) => from)
      const slots = batch.flatMap(({ to }) => listPageSlots(to, this.#headCount))
      const feeds = {
        ...this.#feeds,
        [COPY_FROM]: int64s(sources, [batch.length]),
        [COPY_TO]: int64s(slots.flat(), [batch.length, this.#headCount, 1, PAGE_LENGTH, 4]),
      }
      await this.#copySession.run(feeds, [], { deviceOutputs: this.#deviceOutputs })
      this.#copies = this.#copies.slice(batch.length)
    }
  }
}

/** The first of them that can be done at once: all is read before anything is written. */
function takeIndependent(copies: readonly PageCopy[]): readonly PageCopy[] {
  const written = new Set<number>()
  const end = copies.findIndex(({ from, to }) => {
    if (written.has(from) || written.has(to)) return true
    written.add(to)
    return false
  })
  return end < 0 ? copies : copies.slice(0, end)
}

function listPageSlots(page: number, headCount: number): Slot[] {
  return Array.from({ length: headCount * PAGE_LENGTH }, (_, i): Slot => {
    return [page, Math.floor(i / PAGE_LENGTH), 0, i % PAGE_LENGTH]
  })
}

/** The pages and one of zeros. */
async function reserve(
  config: ModelConfig,
  pageCount: number,
  options: SessionOptions,
): Promise<DeviceMemory> {
  const fill = { [FILL]: { data: new Float32Array(1), dims: [] } }
  const graph = buildCacheGraph(config, pageCount + 1)
  return createDeviceMemory(graph, fill, options).catch((cause: unknown) => {
    if (cause instanceof ExecutionProviderError) throw cause
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new Error(
      `A KV cache of ${pageCount * PAGE_LENGTH} tokens does not fit on the device. Ask for fewer. ONNX Runtime said: ${reason.trim()}`,
      { cause },
    )
  })
}

/** Page, head, 0, position in the page. */
type Slot = readonly [number, number, number, number]

interface DeviceRange extends PageRange {
  readonly pages: readonly number[]
}

/** The pages of a group's rows, in the order of the rows. */
function pickPages(rows: readonly RunningRow[], group: RowGroup): DeviceRange {
  const pages = rows.filter((row) => row.group === group).flatMap(({ kv }) => kv.pages)
  const indexes = new Map(pages.map((page, index) => [page, index]))
  const indexOf = (page: number) => {
    const index = indexes.get(page)
    assert(index !== undefined, `Page ${page} is read in this run.`)
    return index
  }
  return { pages, count: Math.max(1, pages.length), indexOf }
}
