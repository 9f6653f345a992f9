import assert from 'node:assert/strict'
import type { PageContent } from '../engine/model-runner.ts'
import {
  type KvForm,
  PAGE_LENGTH,
  PRESENT,
  PRESENT_INTEGERS,
  PRESENT_PEAKS,
  type RowGroup,
} from '../model/graph-inputs.ts'
import type { ModelConfig } from '../model/model-source.ts'
import {
  countBudgetPages,
  createPagedRow,
  type KvStep,
  type KvStore,
  type NewHeads,
  type PagedRow,
  type PageRange,
  type RunningRow,
} from './kv-store.ts'
import { createPageArrays, type PageArray, pageOf, writeToken } from './page-arrays.ts'
import type { Tensor } from './session.ts'

/** Pages first … first + count − 1 of the cache, zero-copy. */
export interface HostRange extends PageRange {
  readonly first: number
  readonly feeds: Readonly<Record<string, Tensor>>
}

/**
 * The cache in the memory of JavaScript. All of it is reserved at once; the system commits it page by
 * page as it is touched. A page keeps its number and its content wherever it lies.
 *
 * A run reads the pages of its rows as one range of memory for each group, decode rows before chunk
 * rows: `arrange` swaps the few pages that lie elsewhere, one when a row begins a page, a row's worth
 * when its prefill ends.
 */
export class HostPages implements KvStore {
  readonly pageCount: number
  readonly #partCount: number
  readonly #kvForm: KvForm
  readonly #arrays: readonly PageArray[]
  readonly #owners: ({ row: PagedRow; index: number } | null)[]
  /** Places that hold anything but zeros. */
  readonly #isUsed: Uint8Array
  /** Where the page of each number lies, and the number of the page that lies there. */
  readonly #places: Int32Array
  readonly #numbers: Int32Array
  readonly #ranges = new Map<RowGroup, HostRange>()
  #nextId = 1

  constructor(config: ModelConfig, budgetTokens: number, kvForm: KvForm) {
    this.pageCount = countBudgetPages(budgetTokens)
    this.#partCount = 2 * config.layerCount
    this.#kvForm = kvForm
    this.#arrays = createPageArrays(config, this.pageCount, kvForm)
    this.#owners = new Array(this.pageCount).fill(null)
    this.#isUsed = new Uint8Array(this.pageCount)
    this.#places = Int32Array.from({ length: this.pageCount }, (_, page) => page)
    this.#numbers = this.#places.slice()
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
    const [source, target] = [this.#placeOf(from), this.#placeOf(to)]
    assert(this.#owners[target] === null, `Page ${to} is no row's when another is copied into it.`)
    for (const array of this.#arrays) pageOf(array, target).set(pageOf(array, source))
    this.#isUsed[target] = 1
  }

  freeRow(row: PagedRow): void {
    for (const place of row.pages) this.#owners[place] = null
    row.pages.length = 0
    row.emptyPages.length = 0
  }

  prepare(rows: readonly RunningRow[]): KvStep {
    const pick = (group: RowGroup) => rows.filter((row) => row.group === group).map((row) => row.kv)
    const ranges = this.arrange({ decode: pick('decode'), chunk: pick('chunk') })
    const feeds = { ...ranges.decode.feeds, ...ranges.chunk.feeds }
    if (this.#kvForm === 'float32') {
      return { ranges, feeds, outputs: [PRESENT], int8Outputs: [], deviceOutputs: {} }
    }
    const outputs = { outputs: [PRESENT_PEAKS], int8Outputs: [PRESENT_INTEGERS] } as const
    return { ranges, feeds, ...outputs, deviceOutputs: {} }
  }

  append(rows: readonly RunningRow[], results: NewHeads): void {
    for (const row of rows) this.#appendRow(row, results)
  }

  close(): void {}

  /** Gathers the pages of each group's rows in one range, and gives the ranges. */
  arrange(rows: Readonly<Record<RowGroup, readonly PagedRow[]>>): Record<RowGroup, HostRange> {
    const decodeRows = new Set(rows.decode)
    const chunkRows = new Set(rows.chunk)
    const decodeEnd = countPages(rows.decode)
    const chunkEnd = decodeEnd + countPages(rows.chunk)
    this.#gather(decodeRows, 0, decodeEnd)
    this.#gather(chunkRows, decodeEnd, chunkEnd)
    return {
      decode: this.#range('decode', 0, decodeEnd),
      chunk: this.#range('chunk', decodeEnd, chunkEnd),
    }
  }

  #appendRow({ kv: row, firstToken, tokenCount }: RunningRow, results: NewHeads): void {
    for (let i = 0; i < tokenCount; i++) {
      const slot = row.length % PAGE_LENGTH
      if (slot === 0) this.#beginPage(row)
      const place = row.pages.at(-1)
      assert(place !== undefined, 'A row that holds tokens has a page.')
      for (const array of this.#arrays) {
        const heads = results[array.source]
        assert(heads, 'The run gave its keys and values.')
        const partSize = heads.length / this.#partCount
        const tokenSize = array.size / PAGE_LENGTH
        const from = array.part * partSize + (firstToken + i) * tokenSize
        writeToken(array, { place, slot }, heads, from)
      }
      row.length += 1
    }
  }

  #beginPage(row: PagedRow): void {
    const page = row.emptyPages.shift()
    assert(page !== undefined, 'A row has a page for each of its tokens.')
    const place = this.#placeOf(page)
    // What an earlier row left may be NaN, which no mask can hide.
    if (this.#isUsed[place]) for (const array of this.#arrays) pageOf(array, place).fill(0)
    this.#isUsed[place] = 1
    this.#hang(row, page)
  }

  #hang(row: PagedRow, page: number): void {
    const place = this.#placeOf(page)
    assert(this.#owners[place] === null, `Page ${page} belongs to one row.`)
    this.#owners[place] = { row, index: row.pages.length }
    row.pages.push(place)
  }

  #placeOf(page: number): number {
    const place = this.#places[page]
    assert(place !== undefined, `Page ${page} is one of ${this.pageCount}.`)
    return place
  }

  /** Brings all pages of `rows` into `first … end − 1`, which is as many. */
  #gather(rows: ReadonlySet<PagedRow>, first: number, end: number): void {
    const isTheirs = (page: number) => {
      const owner = this.#owners[page]
      return owner != null && rows.has(owner.row)
    }
    let from = end
    for (let page = first; page < end; page++) {
      if (isTheirs(page)) continue
      while (!isTheirs(from)) from++
      this.#swap(page, from)
    }
  }

  #swap(a: number, b: number): void {
    const isBlank = this.#isUsed[a] === 0
    for (const array of this.#arrays) {
      const saved = isBlank ? null : pageOf(array, a).slice()
      pageOf(array, a).set(pageOf(array, b))
      if (saved) pageOf(array, b).set(saved)
    }
    this.#isUsed[a] = 1
    const [ownerA, ownerB] = [this.#owners[a] ?? null, this.#owners[b] ?? null]
    const [numberA, numberB] = [this.#numbers[a] ?? a, this.#numbers[b] ?? b]
    this.#owners[a] = ownerB
    this.#owners[b] = ownerA
    if (ownerB) ownerB.row.pages[ownerB.index] = a
    if (ownerA) ownerA.row.pages[ownerA.index] = b
    this.#numbers[a] = numberB
    this.#numbers[b] = numberA
    this.#places[numberB] = a
    this.#places[numberA] = b
  }

  #range(group: RowGroup, from: number, end: number): HostRange {
    const count = Math.max(1, end - from)
    const first = Math.min(from, this.pageCount - count)
    const known = this.#ranges.get(group)
    if (known?.first === first && known.count === count) return known
    const feeds: Record<string, Tensor> = {}
    for (const { data, size, dims, inputOf } of this.#arrays) {
      const inRange = data.subarray(first * size, (first + count) * size)
      feeds[inputOf(group)] = { data: inRange, dims: [count, ...dims] }
    }
    const range = { first, count, feeds, indexOf: (place: number) => place - first }
    this.#ranges.set(group, range)
    return range
  }
}

function countPages(rows: readonly PagedRow[]): number {
  return rows.reduce((count, row) => count + row.pages.length, 0)
}
