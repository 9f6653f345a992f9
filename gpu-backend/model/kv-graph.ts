import { pageDims } from './attention-graph.ts'
import { cacheInput, cacheOutput, type KvPart, listKvParts } from './graph-inputs.ts'
import type { ModelConfig } from './model-source.ts'
import { OnnxGraph, type OnnxModel } from './onnx-writer.ts'

/** [] float32: what the cache is filled with; an input, or ONNX Runtime would make the zeros as constants. */
export const FILL = 'fill'

/** Makes the cache on the device: its outputs are what {@link cacheInput} is fed. */
export function buildCacheGraph(config: ModelConfig, pageCount: number): OnnxModel {
  const graph = new OnnxGraph()
  graph.input(FILL, 'float32', [])
  const dims = graph.ints(pageDims(config, pageCount))
  for (const kvPart of listKvParts(config.layerCount)) {
    graph.node('Expand', [FILL, dims], {}, cacheInput(kvPart))
    graph.output(cacheInput(kvPart), 'float32', pageDims(config, pageCount))
  }
  return graph.toModel()
}

/** [N] int64: pages to be read. */
export const COPY_FROM = 'from'
/** [N, KV, 1, 64, 4] int64, as `NEW_SLOTS`: where all of them is written. */
export const COPY_TO = 'to'

/** Copies pages of every layer to others, none of which is read too. */
export function buildCopyGraph(config: ModelConfig): OnnxModel {
  const graph = new OnnxGraph()
  graph.input(COPY_FROM, 'int64', ['N'])
  graph.input(COPY_TO, 'int64', [...pageDims(config, 'N').slice(0, 4), 4])
  for (const kvPart of listKvParts(config.layerCount)) addCopy(graph, config, kvPart)
  return graph.toModel()
}

function addCopy(graph: OnnxGraph, config: ModelConfig, kvPart: KvPart): void {
  const dims = pageDims(config, 'pages')
  const cache = graph.input(cacheInput(kvPart), 'float32', dims)
  const pages = graph.node('Gather', [cache, COPY_FROM], { axis: 0 })
  graph.node('ScatterND', [cache, COPY_TO, pages], {}, cacheOutput(kvPart))
  graph.output(cacheOutput(kvPart), 'float32', dims)
}
