import {
  type AttentionHeads,
  type AttentionOptions,
  addAttentionInputs,
  addCacheUpdate,
  addGroupAttention,
} from './attention-graph.ts'
import {
  ATTENTION_ROWS,
  EMBEDDINGS,
  groupSize,
  type KvForm,
  type KvLocation,
  LINEAR_GROUP_NAMES,
  LINEAR_GROUPS,
  type LinearGroup,
  LOGITS,
  loraDownInput,
  loraInputs,
  loraUpInput,
  POSITIONS,
  PRESENT,
  RANK_TILE,
  STATE_TOKENS,
  STATES,
  WANTED_TOKENS,
} from './graph-inputs.ts'
import { type AccuracyLevel, addLinear, addLora, addRotation } from './linear-graph.ts'
import { linearSizes, type ModelConfig, type ModelSource } from './model-source.ts'
import { OnnxGraph, type OnnxModel } from './onnx-writer.ts'
import { addIntegerHeads } from './quantised-pages.ts'
import { ropeFrequencies } from './rope.ts'
import { rotationSize } from './rotation.ts'

export interface LlamaGraphOptions {
  /** Activations of quantised layers. */
  readonly accuracyLevel: AccuracyLevel
  readonly kvLocation: KvLocation
  readonly kvForm: KvForm
  /** See `OnnxGraph`. */
  readonly hasFusedMatMul: boolean
}

/**
 * The model as an ONNX graph over the flat tokens of one step, `graph-inputs.ts` its signature. The
 * embedding is looked up by the feeder; everything after it, LoRA included, is here.
 */
export function buildLlamaGraph(source: ModelSource, options: LlamaGraphOptions): OnnxModel {
  const { config } = source
  const { layerCount, hiddenSize, vocabSize } = config
  const { kvLocation, kvForm, hasFusedMatMul } = options
  const graph = new OnnxGraph({ hasFusedMatMul })
  addInputs(graph, { config, kvLocation, kvForm })
  addRotaryTables(graph, config)
  const model: ModelContext = { graph, source, options }

  let residual = EMBEDDINGS
  let x = graph.node('SimplifiedLayerNormalization', [EMBEDDINGS, addNorm(model, 0)], {
    axis: -1,
    stash_type: 1,
    epsilon: { float: config.normEpsilon },
  })
  const newHeads: AttentionHeads[] = []
  for (let layer = 0; layer < layerCount; layer++) {
    const heads = addHeads(model, layer, x)
    newHeads.push(heads)
    const attention = addAttention(graph, heads, { layer, config, kvLocation, kvForm })
    const mixed = addLayerLinear(model, 'o', layer, attention)
    const middle = addSkipNorm(model, mixed, residual, 2 * layer + 1)
    const ffn = addFfn(model, layer, middle.norm)
    const end = addSkipNorm(model, ffn, middle.sum, 2 * layer + 2)
    residual = end.sum
    x = end.norm
  }
  addNewHeads(graph, newHeads, { config, kvLocation, kvForm })
  graph.node('Gather', [x, STATE_TOKENS], { axis: 0 }, STATES)
  graph.output(STATES, 'float32', ['M', hiddenSize])
  addHead(model, graph.node('Gather', [x, WANTED_TOKENS], { axis: 0 }))
  graph.output(LOGITS, 'float32', ['N', vocabSize])
  return graph.toModel()
}

interface ModelContext {
  readonly graph: OnnxGraph
  readonly source: ModelSource
  readonly options: LlamaGraphOptions
}

/** The step's keys and values go out, or into the cache. */
function addNewHeads(
  graph: OnnxGraph,
  heads: readonly AttentionHeads[],
  { config, kvLocation, kvForm }: Omit<AttentionOptions, 'layer'>,
): void {
  if (kvLocation === 'device') {
    heads.forEach((own, layer) => {
      addCacheUpdate(graph, own, { layer, config })
    })
    return
  }
  const all = [...heads.map(({ k }) => k), ...heads.map(({ v }) => v)]
  const dims = ['2LT', config.kvHeadCount, 1, 1, config.headSize]
  if (kvForm === 'int8') {
    addIntegerHeads(graph, graph.node('Concat', all, { axis: 0 }), dims)
    return
  }
  graph.node('Concat', all, { axis: 0 }, PRESENT)
  graph.output(PRESENT, 'float32', dims)
}

function addInputs(graph: OnnxGraph, options: Omit<AttentionOptions, 'layer'>): void {
  const { config } = options
  graph.input(EMBEDDINGS, 'float32', ['T', config.hiddenSize])
  graph.input(POSITIONS, 'int64', [1, 'T'])
  graph.input(WANTED_TOKENS, 'int64', ['N'])
  graph.input(STATE_TOKENS, 'int64', ['M'])
  graph.input(ATTENTION_ROWS, 'int64', ['T'])
  addAttentionInputs(graph, options)
  for (const group of LINEAR_GROUP_NAMES) {
    const linears = LINEAR_GROUPS[group]
    const { inputSize } = groupSize(config, group)
    const inputs = loraInputs(group)
    const [P, M, W] = [`P_${group}`, `M_${group}`, `W_${group}`]
    const [Q, N] = [`Q_${group}`, `N_${group}`]
    graph.input(inputs.on, 'bool', [])
    graph.input(inputs.tokens, 'int64', [P, M, 1])
    graph.input(inputs.isCopied, 'bool', [])
    graph.input(inputs.copies, 'int64', [Q])
    graph.input(inputs.copyTokens, 'int64', [Q, N, 1])
    graph.input(inputs.results, 'int64', [W, 'T'])
    graph.input(inputs.isResult, 'bool', [W, 'T', 1])
    graph.input(inputs.resultOnes, 'float32', [1, W])
    for (let layer = 0; layer < config.layerCount; layer++) {
      const rankCount = RANK_TILE * linears.length
      graph.input(loraDownInput(group, layer), 'float32', [P, 1, rankCount, inputSize])
      for (const linear of linears) {
        const dims = [P, 1, RANK_TILE, linearSizes(config)[linear][1]]
        graph.input(loraUpInput(linear, layer), 'float32', dims)
      }
    }
  }
}

const COSINES = 'rotary.cosines'
const SINES = 'rotary.sines'

/**
 * [context, D/2] each. They also hold the scale of the scores, 1/√D: half of it (as a factor) in the
 * queries, half in the keys.
 */
function addRotaryTables(graph: OnnxGraph, config: ModelConfig): void {
  const { contextLength } = config
  const { frequencies, magnitude } = ropeFrequencies(config)
  const scale = magnitude * config.headSize ** -0.25
  const half = frequencies.length
  const cosines = new Float32Array(contextLength * half)
  const sines = new Float32Array(contextLength * half)
  for (let position = 0; position < contextLength; position++) {
    frequencies.forEach((frequency, i) => {
      const angle = position * frequency
      cosines[position * half + i] = scale * Math.cos(angle)
      sines[position * half + i] = scale * Math.sin(angle)
    })
  }
  graph.initializer(COSINES, cosines, [contextLength, half])
  graph.initializer(SINES, sines, [contextLength, half])
}

/** Queries, keys and values of all tokens; queries and keys rotated to their positions. */
function addHeads(model: ModelContext, layer: number, x: string): AttentionHeads {
  const { graph, source } = model
  const { headCount, kvHeadCount, headSize } = source.config
  const qkv = addLayerLinear(model, 'qkv', layer, x)
  const [queries, keys] = [headCount * headSize, kvHeadCount * headSize]
  const [qk, v] = graph.split(qkv, graph.ints([queries + keys, keys]), { axis: 1, count: 2 })
  const normed = source.config.hasQkNorm ? addHeadNorms(model, layer, qk) : qk
  const sequence = graph.node('Reshape', [normed, graph.ints([1, -1, queries + keys])])
  const rotary = [sequence, POSITIONS, COSINES, SINES]
  const rotated = graph.microsoftNode('RotaryEmbedding', rotary, {
    num_heads: headCount + kvHeadCount,
  })
  const even = model.options.kvForm === 'int8' ? addSpread(graph, rotated, source.config) : rotated
  const [q, k] = graph.split(even, graph.ints([queries, keys]), { axis: 2, count: 2 })
  const toHeads = (value: string, perKey: number) =>
    graph.node('Reshape', [value, graph.ints([-1, kvHeadCount, perKey, 1, headSize])])
  return { q: toHeads(q, headCount / kvHeadCount), k: toHeads(k, 1), v: toHeads(v, 1) }
}

/**
 * `qk` [1, T, (N + KV) · D], each head multiplied by the same orthogonal matrix: products of queries and keys
 * stay what they are, and no few large elements of a key take the accuracy of the others.
 */
function addSpread(graph: OnnxGraph, qk: string, config: ModelConfig): string {
  const { headCount, kvHeadCount, headSize } = config
  const size = rotationSize(headSize)
  const blocks = graph.node('Reshape', [qk, graph.ints([-1, size])])
  const spread = graph.node('MatMul', [blocks, addRotation(graph, size)])
  return graph.node('Reshape', [spread, graph.ints([1, -1, (headCount + kvHeadCount) * headSize])])
}

/** `qk` [T, (N + KV) · D] with each head normalised: [T, N + KV, D]. */
function addHeadNorms({ graph, source }: ModelContext, layer: number, qk: string): string {
  const { headCount, kvHeadCount, headSize, normEpsilon } = source.config
  const heads = graph.node('Reshape', [qk, graph.ints([-1, headCount + kvHeadCount, headSize])])
  const parts = graph.split(heads, graph.ints([headCount, kvHeadCount]), { axis: 1, count: 2 })
  const attributes = { axis: -1, stash_type: 1, epsilon: { float: normEpsilon } }
  const normed = (['q', 'k'] as const).map((which, i) => {
    const weights = source.headNorm(layer, which)
    if (!weights) return parts[i] ?? ''
    const gamma = graph.initializer(`${layer}.${which}_norm`, weights, [headSize])
    return graph.node('SimplifiedLayerNormalization', [parts[i] ?? '', gamma], attributes)
  })
  return graph.node('Concat', normed, { axis: 1 })
}

/** [T, N · D]. */
function addAttention(graph: OnnxGraph, heads: AttentionHeads, options: AttentionOptions): string {
  const groups = (['decode', 'chunk'] as const).map((group) =>
    addGroupAttention(graph, heads, { group, ...options }),
  )
  const rows = graph.node('Concat', groups, { axis: 0 })
  return graph.node('Gather', [rows, ATTENTION_ROWS], { axis: 0 })
}

function addFfn(model: ModelContext, layer: number, x: string): string {
  const { graph, source } = model
  const { ffnSize } = source.config
  const gateUp = addLayerLinear(model, 'gateUp', layer, x)
  const sizes = graph.ints([ffnSize, ffnSize])
  const [gate, up] = graph.split(gateUp, sizes, { axis: 1, count: 2 })
  const silu = graph.node('Mul', [gate, graph.node('Sigmoid', [gate])])
  return addLayerLinear(model, 'down', layer, graph.node('Mul', [silu, up]))
}

function addLayerLinear(model: ModelContext, group: LinearGroup, layer: number, x: string): string {
  const { graph, source, options } = model
  const linears = LINEAR_GROUPS[group]
  const weights = linears.map((linear) => source.linear(layer, linear))
  const { inputSize, outputSize } = groupSize(source.config, group)
  const y = addLinear(graph, x, weights, { name: `${layer}.${group}`, inputSize, ...options })
  const biased = group === 'qkv' ? addQkvBias(model, layer, y) : y
  return addLora(graph, biased, x, { group, layer, outputSize })
}

/** `y` [T, outputs of q, k and v], plus their biases where the model has them. */
function addQkvBias({ graph, source }: ModelContext, layer: number, y: string): string {
  const parts = LINEAR_GROUPS.qkv.map((name) => source.bias(layer, name))
  const values = Float32Array.from(parts.flatMap((part) => (part ? [...part] : [])))
  if (values.length === 0) return y
  return graph.node('Add', [y, graph.initializer(`${layer}.qkv_bias`, values, [values.length])])
}

/** The norms in the order they run: attention and FFN of each layer, then the final one. */
function addNorm({ graph, source }: ModelContext, index: number): string {
  const layer = Math.floor(index / 2)
  const isFinal = layer === source.config.layerCount
  const weights = isFinal ? source.finalNorm() : source.norm(layer, index % 2 ? 'ffn' : 'attention')
  return graph.initializer(`norm.${index}`, weights, [weights.length])
}

function addSkipNorm(model: ModelContext, x: string, residual: string, index: number) {
  const gamma = addNorm(model, index)
  return model.graph.skipNorm(x, residual, { gamma, epsilon: model.source.config.normEpsilon })
}

function addHead({ graph, source, options }: ModelContext, states: string): void {
  const inputSize = source.config.hiddenSize
  const logits = addLinear(graph, states, [source.head()], { name: 'head', inputSize, ...options })
  graph.node('Identity', [logits], {}, LOGITS)
}
