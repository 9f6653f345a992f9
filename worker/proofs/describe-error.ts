import { BaseError, ContractFunctionRevertedError } from 'viem'

/** One line for the operator. Of viem's errors without the URL, which may hold a key. */
export function describeError(error: unknown): string {
  if (!(error instanceof BaseError)) return error instanceof Error ? error.message : String(error)
  const revert = error.walk((cause) => cause instanceof ContractFunctionRevertedError)
  if (revert instanceof ContractFunctionRevertedError && revert.data !== undefined) {
    const { errorName, args = [] } = revert.data
    return `The contract refused: ${errorName}(${args.join(', ')})`
  }
  const { shortMessage, details } = error
  return details === '' || shortMessage.includes(details)
    ? shortMessage
    : `${shortMessage} ${details}`
}
