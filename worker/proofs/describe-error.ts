import { BaseError } from 'viem'

/** One line for the operator. Of viem's errors without the URL, which may hold a key. */
export function describeError(error: unknown): string {
  if (error instanceof BaseError) {
    const { shortMessage, details } = error
    return details === '' || shortMessage.includes(details)
      ? shortMessage
      : `${shortMessage} ${details}`
  }
  return error instanceof Error ? error.message : String(error)
}
