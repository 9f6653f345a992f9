import { createHash } from 'node:crypto'

/** What a page's content depends on besides tokens. */
export interface PageKeyScope {
  /** Those who may share pages; no page is found from another scope. */
  readonly sharedBy: string
  /** Digests of the weights. */
  readonly model: string
  readonly adapter: string | null
}

export interface PageKeySource {
  readonly scope: PageKeyScope
  /** The prompt, and behind it the answer so far, which may grow. */
  readonly tokens: readonly number[]
  readonly promptTokenCount: number
  readonly pageTokens: number
}

/**
 * Names the pages of a sequence by everything that their bits depend on: weights, all tokens up to
 * the page's end, and which of them were run in the chunks of a prompt rather than one by one, for
 * that rounds differently. `keyOf` wants a full page; keys are computed once.
 */
export function createPageKeys(source: PageKeySource): (index: number) => string {
  const { scope, tokens, promptTokenCount, pageTokens } = source
  const root = JSON.stringify([scope.sharedBy, scope.model, scope.adapter])
  const keys: string[] = []
  return function keyOf(index: number): string {
    for (let next = keys.length; next <= index; next++) {
      const start = next * pageTokens
      const chunkedCount = Math.min(Math.max(promptTokenCount - start, 0), pageTokens)
      const content = Int32Array.of(chunkedCount, ...tokens.slice(start, start + pageTokens))
      const hash = createHash('sha256').update(keys[next - 1] ?? root)
      keys.push(hash.update(content).digest('base64'))
    }
    return keys[index] ?? ''
  }
}
