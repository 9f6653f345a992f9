import { z } from 'zod'

/** A 32-byte digest or hash as `0x` and 64 lower-case hex digits. */
export const digestSchema = z
  .string()
  .regex(/^0x[0-9a-f]{64}$/, 'must be 0x and 64 lower-case hex digits')
  .transform((value) => value as Digest) // the regex proves the template type

export type Digest = `0x${string}`

/** "There is none": no adapter, no datanet, no text. */
export const ZERO_DIGEST: Digest = `0x${'0'.repeat(64)}`

/** An EVM account that can be paid, lower case (EIP-55 checksums are a display matter). */
export const addressSchema = z
  .string()
  .regex(/^0x[0-9a-f]{40}$/, 'must be 0x and 40 lower-case hex digits')
  .transform((value) => value as Address) // the regex proves the template type

export type Address = `0x${string}`

/** Nobody's account. */
export const ZERO_ADDRESS: Address = `0x${'0'.repeat(40)}`
