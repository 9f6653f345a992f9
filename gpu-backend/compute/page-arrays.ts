import {
  type KvForm,
  type KvPart,
  listKvParts,
  PAGE_LENGTH,
  PRESENT,
  PRESENT_INTEGERS,
  PRESENT_PEAKS,
  pagesInput,
  peaksInput,
  type RowGroup,
} from '../model/graph-inputs.ts'
import type { ModelConfig } from '../model/model-source.ts'
import type { NewHeads } from './kv-store.ts'

/** What all pages hold of one layer's keys or values, or of their peaks. */
export interface PageArray {
  readonly data: Float32Array | Int8Array
  /** Of one page. */
  readonly size: number
  readonly dims: readonly number[]
  readonly inputOf: (group: RowGroup) => string
  /** The output that gives a token's part of it, [KV, `width`], and its place among the 2L parts there. */
  readonly source: keyof NewHeads
  readonly part: number
  readonly width: number
  /** From one of a token's elements, or from one position, to the next. */
  readonly elementStride: number
  readonly slotStride: number
}

export function createPageArrays(
  config: ModelConfig,
  pageCount: number,
  kvForm: KvForm,
): readonly PageArray[] {
  const { kvHeadCount, headSize, layerCount } = config
  const allocate = (Kind: typeof Float32Array | typeof Int8Array, dims: readonly number[]) => {
    const size = dims.reduce((product, dim) => product * dim, 1)
    return { data: new Kind(pageCount * size), size, dims }
  }
  const lengthwise = [kvHeadCount, 1, PAGE_LENGTH, headSize]
  const across = [kvHeadCount, 1, headSize, PAGE_LENGTH]
  const inRows = { width: headSize, elementStride: 1, slotStride: headSize }
  const inColumns = { width: headSize, elementStride: PAGE_LENGTH, slotStride: 1 }
  return listKvParts(layerCount).flatMap((kvPart): PageArray[] => {
    const part = indexOfPart(kvPart, layerCount)
    const inputOf = (group: RowGroup) => pagesInput(group, kvPart)
    if (kvForm === 'float32') {
      return [{ ...allocate(Float32Array, lengthwise), ...inRows, inputOf, source: PRESENT, part }]
    }
    const isKey = kvPart.part === 'k'
    const integers = allocate(Int8Array, isKey ? across : lengthwise)
    const order = isKey ? inColumns : inRows
    return [
      { ...integers, ...order, inputOf, source: PRESENT_INTEGERS, part },
      {
        ...allocate(Float32Array, [kvHeadCount, 1, 1, PAGE_LENGTH]),
        ...{ width: 1, elementStride: 1, slotStride: 1 },
        inputOf: (group) => peaksInput(group, kvPart),
        ...{ source: PRESENT_PEAKS, part },
      },
    ]
  })
}

/** Keys of every layer, then values. */
function indexOfPart({ part, layer }: KvPart, layerCount: number): number {
  return part === 'k' ? layer : layerCount + layer
}

export function pageOf({ data, size }: PageArray, place: number): Float32Array | Int8Array {
  return data.subarray(place * size, (place + 1) * size)
}

/** Writes a token's heads, which begin at `from`, at `slot` of the page at `place`. */
export function writeToken(
  { data, size, width, elementStride, slotStride }: PageArray,
  { place, slot }: { readonly place: number; readonly slot: number },
  heads: Float32Array | Int8Array,
  from: number,
): void {
  let source = from
  const end = (place + 1) * size
  for (let head = place * size; head < end; head += width * PAGE_LENGTH) {
    let to = head + slot * slotStride
    for (let element = 0; element < width; element++) {
      data[to] = heads[source++] ?? 0
      to += elementStride
    }
  }
}
