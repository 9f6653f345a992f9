import assert from 'node:assert/strict'
import type { LoraWeights } from '../adapters/lora-weights.ts'
import type { KvRow, ModelRunner, PageContent, StepRow } from '../engine/model-runner.ts'
import { EMBEDDINGS, type KvForm, LOGITS, PAGE_LENGTH, STATES } from '../model/graph-inputs.ts'
import type { AccuracyLevel } from '../model/linear-graph.ts'
import { buildLlamaGraph } from '../model/llama-graph.ts'
import type { LinearWeights, ModelConfig, ModelSource } from '../model/model-source.ts'
import { cutRows, isDecode } from './cut-rows.ts'
import { DevicePages } from './device-pages.ts'
import { lookUpEmbeddings } from './embedding-rows.ts'
import { type PlacedRow, planFeeds } from './feeds.ts'
import { HostPages } from './host-pages.ts'
import type { KvStore, PagedRow } from './kv-store.ts'
import { LoraSlots } from './lora-slots.ts'
import {
  areProductsExact,
  createSession,
  type ExecutionProvider,
  type Session,
  type SessionOptions,
  type Tensor,
} from './session.ts'

export interface ModelRunnerOptions extends SessionOptions {
  /** Tokens of KV cache, reserved at once; rounded down to pages of 64. */
  readonly kvBudgetTokens: number
  /** Activations of quantised layers: 4 (int8, the fast default) or 0 (float32, exact). */
  readonly accuracyLevel?: AccuracyLevel
}

export interface LoraModelRunner extends ModelRunner {
  readonly loadedAdapterCount: number
  /** After this, rows may name the adapter. Its weights are finite: who read them has looked. */
  readonly loadAdapter: (weights: LoraWeights) => void
  /** The caller makes sure that no row names it any more. */
  readonly unloadAdapter: (digest: string) => void
  readonly close: () => Promise<void>
}

/** Builds the graph, loads it into ONNX Runtime (seconds, for a real model) and reserves the KV cache. */
export async function createModelRunner(
  source: ModelSource,
  options: ModelRunnerOptions,
): Promise<LoraModelRunner> {
  const { config } = source
  const { accuracyLevel = 4, executionProvider, kvBudgetTokens } = options
  const isWebGpu = executionProvider === 'webgpu'
  const kvForm = await chooseKvForm(source, executionProvider)
  const model = buildLlamaGraph(source, {
    accuracyLevel,
    kvForm,
    kvLocation: isWebGpu ? 'device' : 'host',
    hasFusedMatMul: !isWebGpu,
  })
  const session = await createSession(model, options)
  const pages = isWebGpu
    ? await DevicePages.create(config, kvBudgetTokens, options)
    : new HostPages(config, kvBudgetTokens, kvForm)
  return new LlamaRunner(source, session, pages)
}

/** int8 beside weights of int8, where the processor multiplies integers exactly. */
async function chooseKvForm(
  source: ModelSource,
  executionProvider: ExecutionProvider,
): Promise<KvForm> {
  const isInt8 = executionProvider === 'cpu' && source.linear(0, 'k').form === 'rotated8'
  return isInt8 && (await areProductsExact()) ? 'int8' : 'float32'
}

/**
 * What LoRA may keep of a group's tiles in one run (twice that while they are put side by side, and at most
 * double where adapters that left are between those that stay). A step that needs more is run in parts.
 */
const MAX_LORA_PRODUCT_BYTES = 16 * 1024 * 1024

class LlamaRunner implements LoraModelRunner {
  readonly #config: ModelConfig
  readonly #embedding: LinearWeights
  readonly #session: Session
  readonly #pages: KvStore
  readonly #lora: LoraSlots
  readonly #rows = new Map<number, PagedRow>()
  readonly kvPageTokens = PAGE_LENGTH

  constructor(source: ModelSource, session: Session, pages: KvStore) {
    this.#config = source.config
    this.#embedding = source.embedding()
    this.#session = session
    this.#pages = pages
    this.#lora = new LoraSlots(source.config)
  }

  get vocabSize(): number {
    return this.#config.vocabSize
  }

  get contextLength(): number {
    return this.#config.contextLength
  }

  get kvPageCount(): number {
    return this.#pages.pageCount
  }

  get loadedAdapterCount(): number {
    return this.#lora.adapterCount
  }

  createKvRow(): KvRow {
    const row = this.#pages.createRow()
    this.#rows.set(row.id, row)
    return row
  }

  addKvPage(row: KvRow, page: number, content: PageContent): void {
    this.#pages.addPage(this.#findRow(row), page, content)
  }

  copyKvPage(from: number, to: number): void {
    this.#pages.copyPage(from, to)
  }

  freeKvRow(row: KvRow): void {
    this.#pages.freeRow(this.#findRow(row))
    this.#rows.delete(row.id)
  }

  loadAdapter(weights: LoraWeights): void {
    this.#lora.load(weights)
  }

  unloadAdapter(digest: string): void {
    this.#lora.unload(digest)
  }

  async close(): Promise<void> {
    await this.#pages.close()
    await this.#session.close()
  }

  async run(rows: readonly StepRow[]): Promise<readonly (Float32Array | null)[]> {
    this.#check(rows)
    const runs = cutRows(rows, (run) => this.#fitsOneRun(listAdapters(run)))
    const feeds = this.#lora.feed(runs.map(listAdapters))
    const results = new Map<StepRow, Float32Array | null>()
    for (const [i, run] of runs.entries()) {
      const outputs = await this.#runTogether(run, feeds[i] ?? {})
      run.forEach((row, r) => {
        results.set(row, outputs[r] ?? null)
      })
    }
    return rows.map((row) => results.get(row) ?? null)
  }

  /** ONNX Runtime turns no more tokens by position than its table has positions. */
  #fitsOneRun(adapters: readonly (string | null)[]): boolean {
    return (
      adapters.length <= this.contextLength &&
      this.#lora.productBytes(adapters) <= MAX_LORA_PRODUCT_BYTES
    )
  }

  async #runTogether(
    order: readonly StepRow[],
    loraFeeds: Readonly<Record<string, Tensor>>,
  ): Promise<readonly (Float32Array | null)[]> {
    const placed = this.#place(order)
    const tokens = Int32Array.from(order.flatMap((row) => [...row.tokens]))
    const step = await this.#pages.prepare(placed)
    const wanted = order.some(({ wantStates }) => wantStates)
      ? ([LOGITS, STATES] as const)
      : ([LOGITS] as const)
    const results = await this.#session.run(
      {
        [EMBEDDINGS]: {
          data: lookUpEmbeddings(this.#embedding, tokens, this.#config.hiddenSize),
          dims: [tokens.length, this.#config.hiddenSize],
        },
        ...planFeeds({
          rows: placed,
          tokenCount: tokens.length,
          ranges: step.ranges,
          queryHeads: this.#config.headCount / this.#config.kvHeadCount,
        }),
        ...step.feeds,
        ...loraFeeds,
      },
      [...wanted, ...step.outputs],
      { int8Outputs: step.int8Outputs, deviceOutputs: step.deviceOutputs },
    )
    this.#pages.append(placed, results)
    const logits = this.#pickLogits(order, results[LOGITS])
    const sums = this.#sumStates(order, results[STATES])
    return order.map((row, i) => sums.get(row) ?? logits[i] ?? null)
  }

  #place(order: readonly StepRow[]): PlacedRow[] {
    let firstToken = 0
    return order.map((row) => {
      const placed: PlacedRow = {
        kv: this.#findRow(row.kv),
        group: isDecode(row) ? 'decode' : 'chunk',
        firstToken,
        tokenCount: row.tokens.length,
        wantLogits: row.wantStates ? false : row.wantLogits,
        wantStates: row.wantStates ?? false,
      }
      firstToken += row.tokens.length
      return placed
    })
  }

  #pickLogits(order: readonly StepRow[], logits: Float32Array): (Float32Array | null)[] {
    let start = 0
    return order.map(({ tokens, wantLogits, wantStates }) => {
      if (!wantLogits || wantStates) return null
      const first = start
      start += this.#config.vocabSize * (wantLogits === 'all' ? tokens.length : 1)
      return logits.subarray(first, start)
    })
  }

  /** `states` [M, H] of the rows that want them, in their order. */
  #sumStates(order: readonly StepRow[], states: Float32Array): Map<StepRow, Float32Array> {
    const { hiddenSize } = this.#config
    const sums = new Map<StepRow, Float32Array>()
    let start = 0
    for (const row of order) {
      if (!row.wantStates) continue
      const end = start + row.tokens.length * hiddenSize
      const sum = new Float64Array(hiddenSize)
      states.subarray(start, end).forEach((value, i) => {
        sum[i % hiddenSize] = (sum[i % hiddenSize] ?? 0) + value
      })
      sums.set(row, Float32Array.from(sum))
      start = end
    }
    return sums
  }

  #findRow(row: KvRow): PagedRow {
    const found = this.#rows.get(row.id)
    assert(found, `KV row ${row.id} is live.`)
    return found
  }

  /** What would otherwise be an error of ONNX Runtime for the whole step, or a wrong answer. */
  #check(rows: readonly StepRow[]): void {
    assert(rows.length > 0, 'A step has rows.')
    const seen = new Set<number>()
    for (const { kv, tokens, adapter } of rows) {
      const { id, length, capacity } = this.#findRow(kv)
      const end = length + tokens.length
      assert(!seen.has(id), `KV row ${id} is in a step once.`)
      assert(tokens.length > 0, `KV row ${id} has tokens to run.`)
      assert(end <= capacity, `KV row ${id} holds ${capacity} tokens, ${end} were asked for.`)
      assert(end <= this.contextLength, `Position ${end} is within the context of KV row ${id}.`)
      assert(
        tokens.every((token) => token >= 0 && token < this.vocabSize),
        `The tokens of KV row ${id} are in the vocabulary.`,
      )
      assert(adapter === null || this.#lora.has(adapter), `Adapter ${adapter} is loaded.`)
      seen.add(id)
    }
  }
}

function listAdapters(rows: readonly StepRow[]): readonly (string | null)[] {
  return rows.flatMap((row) => Array.from(row.tokens, () => row.adapter))
}
