import { concat, encodeAbiParameters, keccak256, stringToHex } from 'viem'
import { z } from 'zod'
import { addressSchema, type Digest, digestSchema } from './digest.ts'

/** Who is paid for a request, and as what. The order is the order of a credit list. */
export const CREDIT_ROLES = [
  'platform',
  'backend',
  'model_owner',
  'adapter_owner',
  'contributor',
] as const

/** One line of a fee split. */
export const creditSchema = z.strictObject({
  payee: addressSchema,
  role: z.enum(CREDIT_ROLES),
  /** Parts per million of the fee; the parts of one list add up to 1,000,000. */
  ppm: z.int().min(0).max(1_000_000),
  amountMicroUsd: z.int().min(0),
})

export type Credit = z.infer<typeof creditSchema>

const uint32Schema = z.int().min(0).max(0xffff_ffff)

/**
 * Usage leaf: one billed request as it is committed to on chain. Version 2 has the same fields; its
 * `adapterDigest` names a merge (adapter-merge.ts), which travels with the leaf as the credits do.
 */
export const usageLeafSchema = z.strictObject({
  version: z.union([z.literal(1), z.literal(2)]),
  requestId: z.string().regex(/^req_[0-9a-zA-Z]{1,59}$/),
  /** `keccak256(accountId ‖ accountSalt)`: says which account only to who holds the salt. */
  accountCommitment: digestSchema,
  completedAtMs: z.int().min(0),
  modelDigest: digestSchema,
  adapterDigest: digestSchema,
  promptTokens: uint32Schema,
  /** Of the prompt tokens, how many came from the prefix cache. */
  cachedTokens: uint32Schema,
  completionTokens: uint32Schema,
  feeMicroUsd: z.int().min(0),
  priceVersion: uint32Schema.min(1),
  splitVersion: uint32Schema.min(1),
  attributionDigest: digestSchema,
  creditsHash: digestSchema,
  contentCommitment: digestSchema,
})

export type UsageLeaf = z.infer<typeof usageLeafSchema>

const LEAF_ABI = [
  { type: 'uint8' },
  { type: 'string' },
  { type: 'bytes32' },
  { type: 'uint64' },
  { type: 'bytes32' },
  { type: 'bytes32' },
  { type: 'uint32' },
  { type: 'uint32' },
  { type: 'uint32' },
  { type: 'uint64' },
  { type: 'uint32' },
  { type: 'uint32' },
  { type: 'bytes32' },
  { type: 'bytes32' },
  { type: 'bytes32' },
] as const

/**
 * `keccak256(keccak256(abi.encode(leaf)))`, the fields in the order of the schema. Hashed twice,
 * so that no inner node of a tree can pass as a leaf (OpenZeppelin StandardMerkleTree).
 */
export function hashUsageLeaf(leaf: UsageLeaf): Digest {
  const encoded = encodeAbiParameters(LEAF_ABI, [
    leaf.version,
    leaf.requestId,
    leaf.accountCommitment,
    BigInt(leaf.completedAtMs),
    leaf.modelDigest,
    leaf.adapterDigest,
    leaf.promptTokens,
    leaf.cachedTokens,
    leaf.completionTokens,
    BigInt(leaf.feeMicroUsd),
    leaf.priceVersion,
    leaf.splitVersion,
    leaf.attributionDigest,
    leaf.creditsHash,
    leaf.contentCommitment,
  ])
  return keccak256(keccak256(encoded))
}

/** `keccak256(abi.encode((address payee, uint8 role, uint32 ppm, uint64 amountMicroUsd)[]))`, in the list's order. */
export function hashCredits(credits: readonly Credit[]): Digest {
  const encoded = encodeAbiParameters(
    [
      {
        type: 'tuple[]',
        components: [
          { name: 'payee', type: 'address' },
          { name: 'role', type: 'uint8' },
          { name: 'ppm', type: 'uint32' },
          { name: 'amountMicroUsd', type: 'uint64' },
        ],
      },
    ],
    [
      credits.map((credit) => ({
        payee: credit.payee,
        role: CREDIT_ROLES.indexOf(credit.role),
        ppm: credit.ppm,
        amountMicroUsd: BigInt(credit.amountMicroUsd),
      })),
    ],
  )
  return keccak256(encoded)
}

/** `keccak256(utf8(accountId) ‖ accountSalt)`; the salt is 32 bytes that only the account is shown. */
export function commitAccount(accountId: string, accountSalt: Digest): Digest {
  return keccak256(concat([stringToHex(accountId), accountSalt]))
}

/** What a content commitment binds; the salt is fresh for each request. */
export interface ContentHashes {
  readonly salt: Digest
  readonly promptHash: Digest
  readonly outputHash: Digest
  /** keccak256 of the integer query sketch; zero while attribution is by verbatim spans alone. */
  readonly sketchHash: Digest
}

/** `keccak256(salt ‖ promptHash ‖ outputHash ‖ sketchHash)`. */
export function commitContent(content: ContentHashes): Digest {
  return keccak256(
    concat([content.salt, content.promptHash, content.outputHash, content.sketchHash]),
  )
}
