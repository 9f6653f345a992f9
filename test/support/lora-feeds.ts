import assert from 'node:assert/strict'
import type { Tensor } from '../../gpu-backend/compute/session.ts'
import { type LinearGroup, loraInputs } from '../../gpu-backend/model/graph-inputs.ts'

/**
 * What the graph sums for each token: its products, in order, each by the tile it is of and whether by a copy
 * of that. Fails where a product is of another token.
 */
export function resultsOf(feeds: Readonly<Record<string, Tensor>>, group: LinearGroup) {
  const of = (name: string) => {
    const tensor = feeds[name]
    assert(tensor, `${name} is fed`)
    return { dims: tensor.dims, values: [...tensor.data].map(Number) }
  }
  const inputs = loraInputs(group)
  const tokens = of(inputs.tokens)
  const copyTokens = of(inputs.copyTokens)
  const copies = of(inputs.copies)
  const results = of(inputs.results)
  const isResult = of(inputs.isResult)
  const [isCopied] = of(inputs.isCopied).values
  const [, width = 0] = tokens.dims
  const [, copyWidth = 0] = copyTokens.dims
  const [depth = 0, tokenCount = 0] = results.dims
  const read = (result: number) => {
    const at = result - tokens.values.length
    if (at < 0) {
      return { token: tokens.values[result], tile: Math.floor(result / width), isCopy: false }
    }
    assert.equal(isCopied, 1)
    const tile = copies.values[Math.floor(at / copyWidth)] ?? Number.NaN
    return { token: copyTokens.values[at], tile, isCopy: true }
  }
  return Array.from({ length: tokenCount }, (_, token) =>
    Array.from({ length: depth }, (_, w) => w * tokenCount + token)
      .filter((at) => isResult.values[at] === 1)
      .map((at) => {
        const result = read(results.values[at] ?? Number.NaN)
        assert.equal(result.token, token)
        return { tile: result.tile, isCopy: result.isCopy }
      }),
  )
}
