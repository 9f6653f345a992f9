import { z } from 'zod'
import { adapterIdSchema } from './adapter-listing.ts'
import { addressSchema, digestSchema } from './digest.ts'

/** Largest `datanet.jsonl`: its index is built in one go on the backend's HTTP thread, in seconds. */
export const MAX_DATANET_BYTES = 4 * 1024 * 1024

/** Largest `contributors.json`. */
export const MAX_CONTRIBUTORS_BYTES = 1024 * 1024

/** `contributors.json`: who made the examples, by the name that they carry there. */
export const contributorsSchema = z.record(
  z.string().min(1).max(200),
  z.strictObject({
    payee: addressSchema.describe('Who is paid for it.'),
    name: z.string().min(1).max(200),
  }),
)

/**
 * What the backend answers of a datanet to whoever owns it: `POST /v1/datanets`, and
 * `GET /v1/datanets` as a list of them.
 */
export const datanetListingSchema = z.object({
  id: adapterIdSchema,
  object: z.literal('datanet'),
  /** The account that it belongs to. */
  tenant: z.string(),
  digest: digestSchema,
  /** Of both files. */
  size_bytes: z.int(),
  datum_count: z.int(),
  contributor_count: z.int(),
  /** Each once, sorted. */
  licences: z.array(z.string()),
  created_at_ms: z.int(),
  /** Ids of the account's adapters that name it, sorted. */
  adapters: z.array(adapterIdSchema),
  /** With one datanet alone, not in a list. */
  contributors: contributorsSchema.optional(),
})

export type DatanetListing = z.infer<typeof datanetListingSchema>

export const datanetListSchema = z.object({ data: z.array(datanetListingSchema) })
