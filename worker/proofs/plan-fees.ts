/** EIP-1559 fees of a transaction. */
export interface FeesPerGas {
  readonly maxFeePerGasWei: bigint
  readonly maxPriorityFeePerGasWei: bigint
}

/** No batch is worth more than this for a unit of gas; above it, it waits. */
const MAX_FEE_PER_GAS_WEI = 1_000_000_000_000n

/**
 * What to offer: enough for the base fee to double, and at least an eighth more than the pending
 * transaction that this one replaces (nodes ask for a tenth). Throws a RangeError at the cap.
 */
export function planFees(market: {
  readonly baseFeeWei: bigint
  readonly priorityFeeWei: bigint
  readonly replaced: FeesPerGas | null
}): FeesPerGas {
  const { baseFeeWei, priorityFeeWei, replaced } = market
  const maxPriorityFeePerGasWei = larger(priorityFeeWei, raise(replaced?.maxPriorityFeePerGasWei))
  const maxFeePerGasWei = larger(
    2n * baseFeeWei + maxPriorityFeePerGasWei,
    raise(replaced?.maxFeePerGasWei),
  )
  if (maxFeePerGasWei > MAX_FEE_PER_GAS_WEI) {
    throw new RangeError(
      `A fee of ${maxFeePerGasWei} wei for a unit of gas is over the cap of ${MAX_FEE_PER_GAS_WEI}.`,
    )
  }
  return { maxFeePerGasWei, maxPriorityFeePerGasWei }
}

function raise(feeWei: bigint | undefined): bigint {
  return feeWei === undefined ? 0n : (feeWei * 9n) / 8n + 1n
}

function larger(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}
