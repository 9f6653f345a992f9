import assert from 'node:assert/strict'
import type { LoraWeights } from '../adapters/lora-weights.ts'
import {
  groupSize,
  LINEAR_GROUP_NAMES,
  LINEAR_GROUPS,
  type LinearGroup,
  loraDownInput,
  loraUpInput,
  RANK_TILE,
} from '../model/graph-inputs.ts'
import {
  LINEAR_NAMES,
  type LinearName,
  linearSizes,
  type ModelConfig,
} from '../model/model-source.ts'
import { feedProducts, MIN_TILES, planProducts, type RunSlot } from './lora-products.ts'
import type { Tensor } from './session.ts'

interface LoadedAdapter {
  readonly weights: LoraWeights
  /** The highest rank of a linear layer over the model's layers. */
  readonly ranks: ReadonlyMap<LinearName, number>
}

/** One adapter's consecutive tiles of a group, for all model layers. */
interface Slot {
  readonly adapter: string
  /** The first tile, and how many. */
  readonly start: number
  readonly size: number
}

/**
 * The adapters of the running batch, laid under each other for the graph: tiles of `a` and `b` by
 * group of linear layers. An adapter keeps its tiles while they are not needed by another, so a change of
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
    this.#adapters.set(weights.digest, { weights, ranks: highestRanks(weights) })
  }

  unload(digest: string): void {
    this.#adapters.delete(digest)
    for (const group of this.#groups) group.evict(digest)
  }

  /** What the largest group's products take in a run whose token t has adapter `adapters[t]`, in bytes. */
  productBytes(adapters: TokenAdapters): number {
    const active = this.#findActive(adapters)
    return Math.max(...this.#groups.map((group) => group.productBytes(active)))
  }

  /**
   * The inputs `lora.*` of each of a step's runs, in which token t has adapter `run[t]`. All stay valid
   * until the next step: their adapters lie beside each other.
   */
  feed(runs: readonly TokenAdapters[]): Record<string, Tensor>[] {
    const all = this.#findActive(runs.flat())
    for (const group of this.#groups) group.place(all)
    return runs.map((run) => {
      const active = this.#findActive(run)
      const feeds: Record<string, Tensor> = {}
      for (const group of this.#groups) Object.assign(feeds, group.feed(active, run.length))
      return feeds
    })
  }

  #findActive(adapters: TokenAdapters): ReadonlyMap<string, ActiveAdapter> {
    const active = new Map<string, ActiveAdapter>()
    adapters.forEach((digest, token) => {
      if (digest === null) return
      const adapter = this.#adapters.get(digest)
      assert(adapter, `Adapter ${digest} is loaded.`)
      const known = active.get(digest)
      if (known) known.tokens.push(token)
      else active.set(digest, { ...adapter, tokens: [token] })
    })
    return active
  }
}

/** For each token of a run, its adapter's digest; null for the base model. */
type TokenAdapters = readonly (string | null)[]

interface ActiveAdapter extends LoadedAdapter {
  readonly tokens: number[]
}

/** One model layer's tiles: `a` [capacity, 16 · n, in], and `b` [capacity, 16, out] of each of the n linear layers. */
interface LayerTiles {
  readonly a: Float32Array
  readonly b: readonly Float32Array[]
}

/** The slots of one group of linear layers. */
class SlotGroup {
  readonly #group: LinearGroup
  readonly #inputSize: number
  /** Outputs of each of its linear layers. */
  readonly #linears: readonly { readonly name: LinearName; readonly outputSize: number }[]
  #layers: LayerTiles[]
  #capacity = MIN_TILES
  #slots: Slot[] = []
  /** Tiles that are fed, and the tensors over them. */
  #fedRange = ''
  #fedLayers: Record<string, Tensor> = {}

  constructor(group: LinearGroup, config: ModelConfig) {
    const sizes = linearSizes(config)
    this.#group = group
    this.#inputSize = groupSize(config, group).inputSize
    this.#linears = LINEAR_GROUPS[group].map((name) => ({ name, outputSize: sizes[name][1] }))
    this.#layers = Array.from({ length: config.layerCount }, () => this.#createLayer(MIN_TILES))
  }

  evict(adapter: string): void {
    this.#slots = this.#slots.filter((slot) => slot.adapter !== adapter)
  }

  productBytes(active: ReadonlyMap<string, ActiveAdapter>): number {
    let tileCount = 0
    const slots = [...active.values()].flatMap((adapter): RunSlot[] => {
      const size = this.#countTiles(adapter)
      if (size === 0) return []
      const start = tileCount
      tileCount += size
      return [{ start, size, tokens: adapter.tokens }]
    })
    const { width, copyWidth, copyCount } = planProducts(slots, tileCount)
    const outputs = this.#linears.reduce((sum, { outputSize }) => sum + outputSize, 0)
    const productCount = tileCount * width + copyCount * copyWidth
    return productCount * outputs * Float32Array.BYTES_PER_ELEMENT
  }

  feed(active: ReadonlyMap<string, ActiveAdapter>, tokenCount: number): Record<string, Tensor> {
    const placed = this.#slots.flatMap((slot) => {
      const adapter = active.get(slot.adapter)
      return adapter ? [{ ...slot, tokens: adapter.tokens }] : []
    })
    const end = Math.max(MIN_TILES, endOf(placed))
    const first = Math.min(end - MIN_TILES, ...placed.map(({ start }) => start))
    const tileCount = end - first
    const slots = placed.map((slot): RunSlot => ({ ...slot, start: slot.start - first }))
    return {
      ...feedProducts(this.#group, { slots, tileCount, tokenCount }),
      ...this.#feedLayers(first, tileCount),
    }
  }

  /** Makes a slot for each active adapter that changes a layer of the group and has none. */
  place(active: ReadonlyMap<string, LoadedAdapter>): void {
    const wanted = [...active.values()].flatMap((adapter) => {
      const size = this.#countTiles(adapter)
      return size > 0 ? [{ adapter, size }] : []
    })
    const neededTiles = wanted.reduce((sum, { size }) => sum + size, 0)
    const isActive = (slot: Slot) => active.has(slot.adapter)
    const end = endOf(this.#slots.filter(isActive))
    if (end > 2 * Math.max(neededTiles, MIN_TILES)) this.#slots = []
    for (const { adapter, size } of wanted.toSorted((a, b) => b.size - a.size)) {
      const { digest } = adapter.weights
      if (this.#slots.some((slot) => slot.adapter === digest)) continue
      const start = findStart(size, this.#slots.filter(isActive))
      const slot = { adapter: digest, start, size }
      this.#slots = [...this.#slots.filter((other) => !overlap(slot, other)), slot]
      this.#write(slot, adapter)
    }
  }

  /** Tiles that the linear layer with the highest rank needs. */
  #countTiles({ ranks }: LoadedAdapter): number {
    const rank = Math.max(...this.#linears.map(({ name }) => ranks.get(name) ?? 0))
    return Math.ceil(rank / RANK_TILE)
  }

  /** What an adapter does not fill of its tiles is zeros. */
  #write({ start, size }: Slot, { weights }: LoadedAdapter): void {
    this.#grow(start + size)
    const inputs = this.#inputSize
    const tileRanks = this.#linears.length * RANK_TILE
    this.#layers.forEach(({ a, b }, layer) => {
      a.fill(0, start * tileRanks * inputs, (start + size) * tileRanks * inputs)
      this.#linears.forEach(({ name, outputSize }, l) => {
        const up = b[l]
        assert(up, 'A layer has tiles of each linear layer of the group.')
        const [first, end] = [start * RANK_TILE, (start + size) * RANK_TILE]
        up.fill(0, first * outputSize, end * outputSize)
        const module = weights.modules.get(`${layer}.${name}`)
        if (!module) return
        for (let w = 0; w * RANK_TILE < module.rank; w++) {
          const ranks = module.a.subarray(w * RANK_TILE * inputs, (w + 1) * RANK_TILE * inputs)
          a.set(ranks, ((start + w) * tileRanks + l * RANK_TILE) * inputs)
        }
        const to = first * outputSize
        for (let i = 0; i < module.b.length; i++) up[to + i] = (module.b[i] ?? 0) * module.scale
      })
    })
  }

  #grow(tiles: number): void {
    if (tiles <= this.#capacity) return
    this.#capacity = 2 ** Math.ceil(Math.log2(tiles))
    this.#layers = this.#layers.map(({ a, b }) => {
      const grown = this.#createLayer(this.#capacity)
      grown.a.set(a)
      grown.b.forEach((up, l) => {
        up.set(b[l] ?? [])
      })
      return grown
    })
    this.#fedRange = ''
  }

  #createLayer(tiles: number): LayerTiles {
    const ranks = tiles * RANK_TILE
    return {
      a: new Float32Array(this.#linears.length * ranks * this.#inputSize),
      b: this.#linears.map(({ outputSize }) => new Float32Array(ranks * outputSize)),
    }
  }

  #feedLayers(first: number, tileCount: number): Record<string, Tensor> {
    const range = `${first}+${tileCount}`
    if (this.#fedRange === range) return this.#fedLayers
    const view = (array: Float32Array, rankCount: number, size: number): Tensor => ({
      data: array.subarray(first * rankCount * size, (first + tileCount) * rankCount * size),
      dims: [tileCount, 1, rankCount, size],
    })
    const feeds: Record<string, Tensor> = {}
    this.#layers.forEach(({ a, b }, layer) => {
      const tileRanks = this.#linears.length * RANK_TILE
      feeds[loraDownInput(this.#group, layer)] = view(a, tileRanks, this.#inputSize)
      this.#linears.forEach(({ name, outputSize }, l) => {
        const up = b[l]
        assert(up, 'A layer has tiles of each linear layer of the group.')
        feeds[loraUpInput(name, layer)] = view(up, RANK_TILE, outputSize)
      })
    })
    this.#fedLayers = feeds
    this.#fedRange = range
    return feeds
  }
}

function endOf(slots: readonly Slot[]): number {
  return slots.reduce((end, slot) => Math.max(end, slot.start + slot.size), 0)
}

/** The lowest tile where so many are free of `taken`. */
function findStart(size: number, taken: readonly Slot[]): number {
  let start = 0
  for (;;) {
    const obstacle = taken.find((slot) => overlap({ start, size }, slot))
    if (!obstacle) return start
    start = obstacle.start + obstacle.size
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
