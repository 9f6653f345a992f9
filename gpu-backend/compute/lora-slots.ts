import assert from 'node:assert/strict'
import type { LoraWeights } from '../adapters/lora-weights.ts'
import {
  LINEAR_GROUP_NAMES,
  LINEAR_GROUPS,
  type LinearGroup,
  LORA_KEPT,
  LORA_TOKENS,
  loraInputs,
  loraLayerInput,
  RANK_TILE,
} from '../model/graph-inputs.ts'
import {
  LINEAR_NAMES,
  type LinearName,
  linearSizes,
  type ModelConfig,
} from '../model/model-source.ts'
import { int64s } from './feeds.ts'
import type { Tensor } from './session.ts'

interface LoadedAdapter {
  readonly weights: LoraWeights
  /** The highest rank of a linear layer over the model's layers. */
  readonly ranks: ReadonlyMap<LinearName, number>
}

/** One linear layer of one adapter, with all its model layers, in consecutive ranks of a group. */
interface Slot {
  readonly adapter: string
  readonly linear: LinearName
  readonly start: number
  /** A power of two that divides `start`. */
  readonly size: number
}

/**
 * The adapters of the running batch, laid side by side for the graph: ranks of `a` and `b` by group
 * of linear layers. An adapter keeps its ranks while they are not needed by another, so a change of
 * the batch copies no more than the adapters that came.
 */
export class LoraSlots {
  readonly #groups: readonly SlotGroup[]
  readonly #adapters = new Map<string, LoadedAdapter>()

  constructor(config: ModelConfig) {
    this.#groups = LINEAR_GROUP_NAMES.map((group) => new SlotGroup(group, config))
  }

  get adapterCount(): number {
    return this.#adapters.size
  }

  has(digest: string): boolean {
    return this.#adapters.has(digest)
  }

  load(weights: LoraWeights): void {
    for (const [key, { a, b, scale }] of weights.modules) {
      // Its columns meet the other adapters' zeros in one product, and 0 · ∞ is not 0.
      if (!areFinite(a, 1) || !areFinite(b, scale)) {
        throw new RangeError(`Adapter ${weights.digest} has a weight that is not finite in ${key}.`)
      }
    }
    this.#adapters.set(weights.digest, { weights, ranks: highestRanks(weights) })
  }

  unload(digest: string): void {
    this.#adapters.delete(digest)
    for (const group of this.#groups) group.evict(digest)
  }

  /** The inputs `lora.*` for a step whose token t has adapter `adapters[t]`. */
  feed(adapters: readonly (string | null)[]): Record<string, Tensor> {
    const active = new Map<string, LoadedAdapter>()
    for (const digest of adapters) {
      if (digest === null || active.has(digest)) continue
      const adapter = this.#adapters.get(digest)
      assert(adapter, `Adapter ${digest} is loaded.`)
      active.set(digest, adapter)
    }
    const kept = adapters.map((_, token) => token)
    const tokens = kept.length === 1 ? [0, 0] : kept
    const feeds: Record<string, Tensor> = {
      [LORA_TOKENS]: int64s(tokens, [tokens.length]),
      [LORA_KEPT]: int64s(kept, [kept.length]),
    }
    const owners = tokens.map((token) => adapters[token] ?? null)
    for (const group of this.#groups) Object.assign(feeds, group.feed(active, owners))
    return feeds
  }
}

/** The slots of one group of linear layers. */
class SlotGroup {
  readonly #group: LinearGroup
  readonly #inputSize: number
  readonly #outputSize: number
  readonly #columns: ReadonlyMap<LinearName, number>
  /** By layer: `a` [capacity, in], `b` [capacity, out]. */
  #layers: { a: Float32Array; b: Float32Array }[]
  #capacity = RANK_TILE
  #slots: Slot[] = []
  /** Ranks that are fed, and the tensors over them. */
  #fedRanks = 0
  #fedLayers: Record<string, Tensor> = {}

  constructor(group: LinearGroup, config: ModelConfig) {
    const sizes = linearSizes(config)
    const columns = new Map<LinearName, number>()
    let outputSize = 0
    for (const linear of LINEAR_GROUPS[group]) {
      columns.set(linear, outputSize)
      outputSize += sizes[linear][1]
    }
    this.#group = group
    this.#columns = columns
    this.#inputSize = sizes[LINEAR_GROUPS[group][0]][0]
    this.#outputSize = outputSize
    this.#layers = Array.from({ length: config.layerCount }, () => this.#createLayer(RANK_TILE))
  }

  evict(adapter: string): void {
    this.#slots = this.#slots.filter((slot) => slot.adapter !== adapter)
  }

  feed(
    active: ReadonlyMap<string, LoadedAdapter>,
    adapters: readonly (string | null)[],
  ): Record<string, Tensor> {
    const slots = this.#place(active)
    const end = slots.reduce((most, slot) => Math.max(most, slot.start + slot.size), 1)
    const rankCount = Math.ceil(end / RANK_TILE) * RANK_TILE
    const { on, mask } = loraInputs(this.#group)
    const own = new Uint8Array(adapters.length * rankCount)
    for (const { adapter, start, size } of slots) {
      adapters.forEach((digest, token) => {
        const first = token * rankCount + start
        if (digest === adapter) own.fill(1, first, first + size)
      })
    }
    return {
      [on]: { data: Uint8Array.of(slots.length > 0 ? 1 : 0), dims: [] },
      [mask]: { data: own, dims: [adapters.length, rankCount] },
      ...this.#feedLayers(rankCount),
    }
  }

  /** Finds or makes a slot for each linear layer that the active adapters change. */
  #place(active: ReadonlyMap<string, LoadedAdapter>): Slot[] {
    const wanted = [...active.values()].flatMap(({ weights, ranks }) =>
      LINEAR_GROUPS[this.#group].flatMap((linear) => {
        const rank = ranks.get(linear)
        return rank === undefined ? [] : [{ weights, linear, size: nextPowerOfTwo(rank) }]
      }),
    )
    const isActive = (slot: Slot) => active.has(slot.adapter)
    const neededRanks = wanted.reduce((sum, { size }) => sum + size, 0)
    const end = Math.max(0, ...this.#slots.filter(isActive).map((slot) => slot.start + slot.size))
    if (end > 2 * Math.max(neededRanks, RANK_TILE)) this.#slots = []
    const known = (adapter: string, linear: LinearName) =>
      this.#slots.find((slot) => slot.adapter === adapter && slot.linear === linear)
    return wanted
      .toSorted((a, b) => b.size - a.size)
      .map(({ weights, linear, size }) => {
        const found = known(weights.digest, linear)
        if (found) return found
        const start = this.#findStart(size, this.#slots.filter(isActive))
        const slot = { adapter: weights.digest, linear, start, size }
        this.#slots = [...this.#slots.filter((other) => !overlap(slot, other)), slot]
        this.#write(slot, weights)
        return slot
      })
  }

  /**
   * The lowest start that is free of `taken`, a multiple of `size`: ranks up to 128 then lie within
   * one of the blocks of 128 that the product sums separately, and sum in the same order everywhere.
   * (An adapter of a higher rank is summed in two blocks or one, as the machine's thread count has
   * it: the same to rounding, not to the bit.)
   */
  #findStart(size: number, taken: readonly Slot[]): number {
    let start = 0
    while (taken.some((slot) => overlap({ start, size }, slot))) start += size
    return start
  }

  #write(slot: Slot, weights: LoraWeights): void {
    const { start, size, linear } = slot
    this.#grow(start + size)
    const column = this.#columns.get(linear) ?? 0
    const inputs = this.#inputSize
    const outputs = this.#outputSize
    this.#layers.forEach(({ a, b }, layer) => {
      a.fill(0, start * inputs, (start + size) * inputs)
      b.fill(0, start * outputs, (start + size) * outputs)
      const module = weights.modules.get(`${layer}.${linear}`)
      if (!module) return
      a.set(module.a, start * inputs)
      const width = module.b.length / module.rank
      for (let r = 0; r < module.rank; r++) {
        const to = (start + r) * outputs + column
        for (let i = 0; i < width; i++) b[to + i] = (module.b[r * width + i] ?? 0) * module.scale
      }
    })
  }

  #grow(ranks: number): void {
    if (ranks <= this.#capacity) return
    this.#capacity = nextPowerOfTwo(ranks)
    this.#layers = this.#layers.map(({ a, b }) => {
      const grown = this.#createLayer(this.#capacity)
      grown.a.set(a)
      grown.b.set(b)
      return grown
    })
    this.#fedRanks = 0
  }

  #createLayer(ranks: number) {
    return {
      a: new Float32Array(ranks * this.#inputSize),
      b: new Float32Array(ranks * this.#outputSize),
    }
  }

  #feedLayers(rankCount: number): Record<string, Tensor> {
    if (this.#fedRanks === rankCount) return this.#fedLayers
    const tiles = [rankCount / RANK_TILE, RANK_TILE, this.#inputSize]
    this.#fedLayers = {}
    this.#layers.forEach(({ a, b }, layer) => {
      this.#fedLayers[loraLayerInput(this.#group, 'a', layer)] = {
        data: a.subarray(0, rankCount * this.#inputSize),
        dims: tiles,
      }
      this.#fedLayers[loraLayerInput(this.#group, 'b', layer)] = {
        data: b.subarray(0, rankCount * this.#outputSize),
        dims: [rankCount, this.#outputSize],
      }
    })
    this.#fedRanks = rankCount
    return this.#fedLayers
  }
}

function highestRanks(weights: LoraWeights): ReadonlyMap<LinearName, number> {
  const ranks = new Map<LinearName, number>()
  for (const [key, { rank }] of weights.modules) {
    const linear = LINEAR_NAMES.find((name) => key.endsWith(`.${name}`))
    if (linear) ranks.set(linear, Math.max(rank, ranks.get(linear) ?? 0))
  }
  return ranks
}

function overlap(
  a: { readonly start: number; readonly size: number },
  b: { readonly start: number; readonly size: number },
): boolean {
  return a.start < b.start + b.size && b.start < a.start + a.size
}

function nextPowerOfTwo(rank: number): number {
  return 2 ** Math.ceil(Math.log2(rank))
}

function areFinite(values: Float32Array, scale: number): boolean {
  // Infinity · 0 and NaN · 0 are NaN, which no sum loses.
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += Math.fround((values[i] ?? 0) * scale) * 0
  return sum === 0
}
