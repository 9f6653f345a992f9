import { z } from 'zod'
import { addressSchema, digestSchema } from './digest.ts'

/** An adapter's own id: no `:`, which stands between base and adapter in `model`, and no `/`. */
export const adapterIdSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/,
    'must be 1 to 100 letters, digits, ".", "_" or "-", a letter or digit first',
  )

/**
 * What the backend answers of an adapter to whoever owns it: `POST /v1/adapters`, and
 * `GET /v1/adapters` as a list of them. See docs/adapters.md for the states.
 */
export const adapterListingSchema = z.object({
  id: adapterIdSchema,
  object: z.literal('adapter'),
  /** The account that it belongs to; null: the operator. */
  tenant: z.string().nullable(),
  base_model: z.string(),
  state: z.enum(['registered', 'fetching', 'on_disk', 'loading', 'ready', 'unloading', 'failed']),
  error: z
    .object({ code: z.string(), message: z.string(), param: z.string().nullable() })
    .nullable(),
  /** SHA-256 of what the adapter computes; null while nothing serves. */
  digest: digestSchema.nullable(),
  size_bytes: z.int().nullable(),
  owner: addressSchema.nullable(),
  datanet: z.string().nullable(),
  pinned: z.boolean(),
  source: z
    .union([
      z.object({ kind: z.enum(['folder', 'upload']) }),
      z.object({ kind: z.literal('hub'), repo: z.string(), commit: z.string() }),
    ])
    .nullable(),
  requests_in_flight: z.int(),
  requests_waiting: z.int(),
  /** Newest last. */
  events: z.array(z.object({ state: z.string(), at_ms: z.int() })),
})

export type AdapterListing = z.infer<typeof adapterListingSchema>

export const adapterListSchema = z.object({ data: z.array(adapterListingSchema) })
