import { z } from 'zod'
import { TIERS, type Tier } from '../../protocol/backend.ts'

export const tierSchema = z.enum(TIERS)

const percentSchema = z.int().min(1).max(100)

/**
 * How much of an account's parallel requests may be under way, of whatever tier, for one more of this
 * tier to be let in: so the lowest tier is shed first, and what is left is the more urgent ones'.
 */
export const tierPercentsSchema = z.strictObject({
  standard: percentSchema.default(100),
  batch: percentSchema.default(75),
})

export type TierPercents = z.infer<typeof tierPercentsSchema>

/** Whether requests of `tier` are served before those of `other`. */
export function isMoreUrgent(tier: Tier, other: Tier): boolean {
  return TIERS.indexOf(tier) < TIERS.indexOf(other)
}

/** Of `limit` parallel requests, how many may be under way for one of this tier to be the last; at least one. */
export function shareForTier(limit: number, tier: Tier, percents: TierPercents): number {
  return tier === 'interactive' ? limit : Math.ceil((limit * percents[tier]) / 100)
}
