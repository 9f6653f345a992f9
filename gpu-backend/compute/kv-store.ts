import type { KvRow, PageContent } from '../engine/model-runner.ts'
import {
  PAGE_LENGTH,
  type PRESENT,
  type PRESENT_INTEGERS,
  type PRESENT_PEAKS,
  type RowGroup,
} from '../model/graph-inputs.ts'
import type { DeviceOutputs, Feeds } from './session.ts'

/** A sequence's place in the cache. */
export interface PagedRow extends KvRow {
  length: number
  /** Where the pages that hold its tokens lie now, in order, the last one partly filled. */
  readonly pages: number[]
  /** Numbers of pages that were given to it and hold none of its tokens yet. */
  readonly emptyPages: number[]
}

/** The tokens that a row runs in a step. */
export interface RunningRow {
  readonly kv: PagedRow
  readonly group: RowGroup
  /** Index of its first token among the step's. */
  readonly firstToken: number
  readonly tokenCount: number
}

/** The pages that a group's rows read in a run. */
export interface PageRange {
  /** At least one, for a graph's input is never empty. */
  readonly count: number
  /** Which of them lies at a place of {@link PagedRow.pages}. */
  readonly indexOf: (place: number) => number
}

export type GroupRanges = Readonly<Record<RowGroup, PageRange>>

/** What one run takes of the cache, and gives to it. */
export interface KvStep {
  readonly ranges: GroupRanges
  readonly feeds: Feeds
  readonly outputs: readonly (typeof PRESENT | typeof PRESENT_PEAKS)[]
  readonly int8Outputs: readonly (typeof PRESENT_INTEGERS)[]
  readonly deviceOutputs: DeviceOutputs
}

/** What a run gave of its step's outputs. */
export interface NewHeads {
  readonly [PRESENT]?: Float32Array
  readonly [PRESENT_PEAKS]?: Float32Array
  readonly [PRESENT_INTEGERS]?: Int8Array
}

/**
 * The keys and values of all rows, in pages of 64 positions. All memory is reserved at once. Who gets
 * which page is the engine's decision: a page keeps its number and its content, in a row or in none.
 */
export interface KvStore {
  readonly pageCount: number
  /** A row without pages. */
  readonly createRow: () => PagedRow
  /** Gives the row its next page; a filled one holds its next 64 tokens already. */
  readonly addPage: (row: PagedRow, page: number, content: PageContent) => void
  /** What page `from` holds, in page `to` too. */
  readonly copyPage: (from: number, to: number) => void
  /** Takes the row's pages from it; they keep what they hold. */
  readonly freeRow: (row: PagedRow) => void
  readonly prepare: (rows: readonly RunningRow[]) => Promise<KvStep> | KvStep
  /** After the run: the rows hold their new tokens. */
  readonly append: (rows: readonly RunningRow[], results: NewHeads) => void
  readonly close: () => Promise<void> | void
}

export function createPagedRow(id: number): PagedRow {
  return {
    id,
    length: 0,
    pages: [],
    emptyPages: [],
    get capacity() {
      return (this.pages.length + this.emptyPages.length) * PAGE_LENGTH
    },
  }
}

export function countBudgetPages(budgetTokens: number): number {
  const pageCount = Math.floor(budgetTokens / PAGE_LENGTH)
  if (pageCount >= 1) return pageCount
  throw new RangeError(`A KV budget of ${budgetTokens} tokens is less than a page of 64.`)
}
