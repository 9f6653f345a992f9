import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import type { Digest } from '../../protocol/digest.ts'
import type { Attribution, Attributor } from './attribution.ts'
import type { Datanet } from './datanet.ts'
import { pickSpans, weighContributors } from './score.ts'
import { createSpanIndex } from './span-index.ts'
import { SPAN_RULE } from './span-rule.ts'
import { splitWords } from './words.ts'

/**
 * Attributes answers to the contributors of a datanet by verbatim spans of the answer in what
 * their examples teach, weighted by rarity in bits: a word is worth log2((contributors + 1) /
 * contributors who use it). Whoever has the answer and the datanet gets the same integers.
 */
export function createAttributor(datanet: Datanet): Attributor {
  const index = createSpanIndex(datanet.data)
  const registrationOrder = new Map<string, number>()
  for (const { contributor } of datanet.data) {
    if (!registrationOrder.has(contributor)) {
      registrationOrder.set(contributor, registrationOrder.size)
    }
  }
  return {
    digest: digestAttributor(datanet.digest),
    attribute: (answer): Attribution => {
      const words = splitWords(answer)
      const spans = pickSpans(
        index,
        words.map(({ text }) => text),
      )
      return {
        contributors: weighContributors(spans, registrationOrder).map((weight) => {
          const contributor = datanet.contributors.get(weight.contributor)
          assert(contributor, `the datanet names no contributor ${weight.contributor}`)
          return { ...weight, payee: contributor.payee }
        }),
        spans: spans.map(({ firstWord, endWord, datum }) => {
          const first = words[firstWord]
          const last = words[endWord - 1]
          assert(first && last, 'a span lies outside its answer')
          const { id: datumId, contributor } = datum
          return { start: first.start, end: last.end, datumId, contributor }
        }),
      }
    },
  }
}

/** SHA-256 of the rule's JSON, a line feed and the datanet's digest. */
export function digestAttributor(datanetDigest: Digest): Digest {
  const named = `${JSON.stringify(SPAN_RULE)}\n${datanetDigest}`
  return `0x${createHash('sha256').update(named).digest('hex')}`
}
