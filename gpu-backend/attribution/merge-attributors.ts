import { createHash } from 'node:crypto'
import type { Attribution, Attributor } from './attribution.ts'

/** What scores an adapter's answers, and what the adapter counts. */
export interface WeighedAttributor {
  /** Null: it was trained on no datanet. */
  readonly attributor: Attributor | null
  readonly weightPpm: number
}

/** As many as provenance carries (protocol/backend.ts). */
const MAX_CONTRIBUTORS = 64
const MAX_SPANS = 256

/**
 * What scores the answers of several adapters as one. Each index scores the whole answer; a
 * contributor's part is their part by the index times what its adapters count, of those indexes that
 * support the answer at all. Null where no adapter has one; the index itself where all have the same.
 *
 * The digest is SHA-256 of the lines `tallygate attribution merge 1` and, for each index in order,
 * `<digest> <weightPpm>`, each ended by a line feed.
 */
export function mergeAttributors(parts: readonly WeighedAttributor[]): Attributor | null {
  const indexes = new Map<string, { readonly attributor: Attributor; weightPpm: number }>()
  for (const { attributor, weightPpm } of parts) {
    if (!attributor) continue
    const known = indexes.get(attributor.digest)
    if (known) known.weightPpm += weightPpm
    else indexes.set(attributor.digest, { attributor, weightPpm })
  }
  const ordered = [...indexes.values()].sort((a, b) =>
    a.attributor.digest < b.attributor.digest ? -1 : 1,
  )
  const [first, ...others] = ordered
  if (!first) return null
  if (others.length === 0) return first.attributor
  const lines = ordered.map(({ attributor, weightPpm }) => `${attributor.digest} ${weightPpm}\n`)
  const hash = createHash('sha256').update(`tallygate attribution merge 1\n${lines.join('')}`)
  return {
    digest: `0x${hash.digest('hex')}`,
    attribute: (answer) => {
      const scored = ordered.map(({ attributor, weightPpm }) => ({
        ...attributor.attribute(answer),
        weightPpm,
      }))
      return {
        contributors: weighContributors(scored),
        spans: scored
          .flatMap(({ spans }) => spans)
          .sort((a, b) => a.start - b.start || a.end - b.end)
          .slice(0, MAX_SPANS),
      }
    },
  }
}

type Contributor = Attribution['contributors'][number]

/** Largest remainder over 1,000,000; parts of less than one are left out. */
function weighContributors(
  scored: readonly (Attribution & { readonly weightPpm: number })[],
): readonly Contributor[] {
  const units = new Map<string, Contributor & { units: number }>()
  for (const { contributors, weightPpm } of scored) {
    for (const credit of contributors) {
      const key = `${credit.payee} ${credit.contributor}`
      const known = units.get(key)?.units ?? 0
      units.set(key, { ...credit, units: known + credit.weightPpm * weightPpm })
    }
  }
  const heaviest = [...units.values()].sort((a, b) => b.units - a.units).slice(0, MAX_CONTRIBUTORS)
  const total = heaviest.reduce((sum, part) => sum + BigInt(part.units), 0n)
  const parts = heaviest.map((part) => {
    const scaled = BigInt(part.units) * 1_000_000n
    return { part, whole: Number(scaled / total), remainder: scaled % total }
  })
  const missing = 1_000_000 - parts.reduce((sum, { whole }) => sum + whole, 0)
  const raised = new Set(
    parts
      .toSorted((a, b) => Number(b.remainder > a.remainder) - Number(b.remainder < a.remainder))
      .slice(0, missing),
  )
  return parts.flatMap((each) => {
    const { contributor, payee } = each.part
    const weightPpm = each.whole + (raised.has(each) ? 1 : 0)
    return weightPpm === 0 ? [] : [{ contributor, payee, weightPpm }]
  })
}
