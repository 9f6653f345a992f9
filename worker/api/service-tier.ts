import { z } from 'zod'
import type { Tier } from '../../protocol/backend.ts'

/** What callers of OpenAI's API name a tier; `auto` leaves it to the key. */
const TIERS_BY_NAME = {
  default: 'standard',
  flex: 'batch',
  priority: 'interactive',
} as const satisfies Record<string, Tier>

export const serviceTierSchema = z
  .enum(['auto', 'default', 'flex', 'priority'])
  .nullish()
  .describe(
    'How urgent the request is: `priority` interactive, `default` standard, `flex` batch, `auto` as the key. Never above the key’s tier. The answer’s `x-tallygate-tier` names what served.',
  )

/** The tier that a caller asks for; nothing where it is left to the key. */
export function readTier(serviceTier: z.output<typeof serviceTierSchema>): {
  readonly tier?: Tier
} {
  if (serviceTier == null || serviceTier === 'auto') return {}
  return { tier: TIERS_BY_NAME[serviceTier] }
}

/** As OpenAI's answers name a tier. */
export function nameTier(tier: Tier): keyof typeof TIERS_BY_NAME {
  if (tier === 'interactive') return 'priority'
  return tier === 'batch' ? 'flex' : 'default'
}
