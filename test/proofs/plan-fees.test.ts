import fc from 'fast-check'
import { expect, it } from 'vitest'
import { planFees } from '../../worker/proofs/plan-fees.ts'

const wei = fc.bigInt({ min: 0n, max: 100_000_000_000n })

it('always outbids what it replaces by a tenth, and the market by a doubling of its base fee', () => {
  fc.assert(
    fc.property(wei, wei, wei, wei, (baseFeeWei, priorityFeeWei, oldMax, oldPriority) => {
      const replaced = { maxFeePerGasWei: oldMax, maxPriorityFeePerGasWei: oldPriority }
      const fees = planFees({ baseFeeWei, priorityFeeWei, replaced })
      expect(fees.maxFeePerGasWei * 10n).toBeGreaterThanOrEqual(oldMax * 11n)
      expect(fees.maxPriorityFeePerGasWei * 10n).toBeGreaterThanOrEqual(oldPriority * 11n)
      expect(fees.maxFeePerGasWei).toBeGreaterThanOrEqual(2n * baseFeeWei + priorityFeeWei)
      expect(fees.maxFeePerGasWei).toBeGreaterThanOrEqual(fees.maxPriorityFeePerGasWei)
    }),
    { seed: 1 },
  )
})

it('stops at the cap instead of paying any price', () => {
  const market = { baseFeeWei: 600_000_000_000n, priorityFeeWei: 1n, replaced: null }
  expect(() => planFees(market)).toThrow('is over the cap of 1000000000000')
})
