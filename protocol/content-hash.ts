import { keccak256, stringToBytes } from 'viem/utils'
import type { Digest } from './digest.ts'

/** keccak256 of the text as UTF-8; lone surrogates count as U+FFFD, as every encoder writes them. */
export function hashText(text: string): Digest {
  return keccak256(stringToBytes(text))
}
