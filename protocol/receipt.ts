import { z } from 'zod'
import { adapterMergeSchema } from './adapter-merge.ts'
import { addressSchema, digestSchema } from './digest.ts'
import { creditSchema, usageLeafSchema } from './usage-leaf.ts'

const partsOfEveryReceipt = {
  version: z.literal(1),
  /** What was billed, as it is (or will be) committed to on chain. */
  leaf: usageLeafSchema,
  /** What `leaf.adapterDigest` names where `leaf.version` is 2; absent for other versions. */
  merge: adapterMergeSchema.optional(),
  /** What `leaf.creditsHash` covers: who is paid what. */
  credits: z.array(creditSchema).min(1),
  /** What `leaf.contentCommitment` covers; whoever has the prompt and the answer can hash them. */
  content: z.strictObject({
    salt: digestSchema,
    promptHash: digestSchema,
    outputHash: digestSchema,
    sketchHash: digestSchema,
  }),
  /** What `leaf.accountCommitment` covers. */
  account: z.strictObject({ id: z.string().min(1).max(100), salt: digestSchema }),
}

const commitmentSchema = z
  .string()
  .regex(/^0x([0-9a-f]{2})+$/, 'must be 0x and an even number of lower-case hex digits')
  .transform((value) => value as `0x${string}`) // the regex proves the template type

const anchoredParts = {
  ...partsOfEveryReceipt,
  batch: z.strictObject({
    id: z.int().min(1),
    /** The leaf's place in the batch payload, from 0. */
    leafIndex: z.int().min(0),
    leafCount: z.int().min(1),
    root: digestSchema,
    /** Siblings from the leaf up. */
    proof: z.array(digestSchema).max(32),
    /** keccak256 of the batch payload (batch-payload.ts). */
    payloadHash: digestSchema,
  }),
  /** Where the payload is; `none`: in the operator's archive alone, because the DA layer was down. */
  da: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('eigenda'), commitment: commitmentSchema }),
    z.strictObject({ kind: z.literal('none') }),
  ]),
  anchor: z.strictObject({
    chainId: z.int().min(1),
    contract: addressSchema,
    txHash: digestSchema,
    blockNumber: z.int().min(0),
  }),
}

/**
 * The proof of one request, `GET /v1/receipts/{id}`. There is no field in it that the verifier
 * (verify-receipt.ts) does not check. It holds salts: it is for the account, and for whom the
 * account chooses to show it to.
 */
export const receiptSchema = z
  .discriminatedUnion('state', [
    /** Settled, not yet on chain: a promise by the operator. */
    z.strictObject({ state: z.literal('pending'), ...partsOfEveryReceipt }),
    /** On chain. Stays true when the block becomes final later. */
    z.strictObject({ state: z.literal('anchored'), ...anchoredParts }),
    /** On chain, in a block that the chain calls finalized. */
    z.strictObject({ state: z.literal('final'), ...anchoredParts }),
  ])
  .refine(({ leaf, merge }) => (leaf.version === 2) === (merge !== undefined), {
    path: ['merge'],
    message: 'stands in receipts of leaf version 2, and in no others',
  })

export type Receipt = z.infer<typeof receiptSchema>

export type AnchoredReceipt = Exclude<Receipt, { readonly state: 'pending' }>
