import { z } from 'zod'
import {
  type AdapterMerge,
  adapterMergeSchema,
  digestMerge,
  MAX_MERGED_ADAPTERS,
  mergeMemberSchema,
  orderMembers,
} from './adapter-merge.ts'
import { addressSchema, digestSchema } from './digest.ts'

/**
 * What the gateway and its own backend say to each other beyond OpenAI's API. A foreign
 * OpenAI-compatible server says none of it, and everything here is therefore optional for the
 * gateway: it then meters by the standard `usage` object alone.
 */

/** The gateway's request id; the backend runs a request under it and remembers its usage by it. */
export const REQUEST_ID_HEADER = 'x-request-id'

/**
 * The account a request belongs to: for fairness between tenants, and because an account's own
 * adapters are found, used and changed by it alone. Opaque to the backend.
 */
export const TENANT_HEADER = 'x-tallygate-tenant'

/** How urgent a request is: one of {@link TIERS}. A backend takes none as `standard`. */
export const TIER_HEADER = 'x-tallygate-tier'

/** Most urgent first. */
export const TIERS = ['interactive', 'standard', 'batch'] as const

export type Tier = (typeof TIERS)[number]

/** One contributor's part in an answer. */
export const contributorCreditSchema = z.object({
  contributor: z.string().min(1).max(200),
  payee: addressSchema,
  /** Parts per million of the contributors' share; the parts of one answer add up to 1,000,000. */
  weight_ppm: z.int().min(1).max(1_000_000),
})

/** A stretch of the answer that stands word for word in a contributor's datum. Offsets are UTF-16 units of the answer. */
export const matchedSpanSchema = z.object({
  start: z.int().min(0),
  end: z.int().min(1),
  datum_id: z.string().max(200),
  contributor: z.string().max(200),
})

const wireMergeSchema = z.object({
  method: adapterMergeSchema.shape.method,
  density_ppm: adapterMergeSchema.shape.densityPpm,
  members: z
    .array(
      z.object({
        digest: digestSchema,
        owner: addressSchema.nullable(),
        weight_ppm: mergeMemberSchema.shape.weightPpm,
      }),
    )
    .min(1)
    .max(MAX_MERGED_ADAPTERS),
})

/**
 * The `tallygate` object on a non-streamed body, on the usage chunk of a stream (the one with
 * `choices: []`), and in a request report: what the answer was made of.
 */
export const provenanceSchema = z
  .object({
    /** SHA-256 that names the exact base weights. */
    model_digest: digestSchema,
    /** SHA-256 of the adapter's content; zero for the base model. */
    adapter_digest: digestSchema,
    /** Who is paid the adapter owner's share; null for the base model or where none is named. */
    adapter_owner: addressSchema.nullable(),
    /** What the adapter was merged of for this request, its owners too; absent for a registered adapter. */
    merge: wireMergeSchema.optional(),
    /** SHA-256 of the datanet index that scored the answer; zero if none did. */
    attribution_digest: digestSchema,
    /** Empty: the answer is supported by nobody's data. */
    contributors: z.array(contributorCreditSchema).max(64),
    spans: z.array(matchedSpanSchema).max(256),
    /** keccak256 of the UTF-8 prompt, as the model saw it (chat template applied). */
    prompt_hash: digestSchema,
    /** keccak256 of the UTF-8 answer as the model wrote it, the markup of tool calls included; several choices are joined with U+0000. */
    output_hash: digestSchema,
  })
  .refine(
    ({ merge, adapter_digest }) => {
      if (merge === undefined) return true
      const parsed = adapterMergeSchema.safeParse(composeMerge(merge))
      return parsed.success && digestMerge(parsed.data) === adapter_digest
    },
    { path: ['merge'], message: 'is not what adapter_digest names' },
  )

export type Provenance = z.infer<typeof provenanceSchema>

/** What an answer's adapter was merged of, in the spelling of leaves and receipts; null: it was not. */
export function readMerge({ merge }: Provenance): AdapterMerge | null {
  return merge === undefined ? null : composeMerge(merge)
}

function composeMerge(merge: z.infer<typeof wireMergeSchema>): AdapterMerge {
  const { method, density_ppm: densityPpm, members } = merge
  return {
    method,
    densityPpm,
    members: orderMembers(
      members.map(({ digest, owner, weight_ppm: weightPpm }) => ({ digest, owner, weightPpm })),
    ),
  }
}

/** A usage leaf holds counts as uint32. */
const tokenCountSchema = z.int().min(0).max(0xffff_ffff)

export const usageSchema = z.object({
  prompt_tokens: tokenCountSchema,
  completion_tokens: tokenCountSchema,
  total_tokens: z.int().min(0),
  prompt_tokens_details: z.object({ cached_tokens: tokenCountSchema }).optional(),
})

export type Usage = z.infer<typeof usageSchema>

/**
 * `GET /tallygate/requests/{request_id}`: what a request has used so far, kept for ten minutes
 * after its end. It lets the gateway bill exactly what was produced when the stream that would
 * have said so was cut. 404: never seen, or forgotten.
 */
export const requestReportSchema = z.object({
  request_id: z.string(),
  state: z.enum(['running', 'completed', 'cancelled', 'failed']),
  /** While it waits for its turn: how many go before it, and itself; absent or null: it does not wait. */
  queue_position: z.int().min(1).nullable().optional(),
  usage: usageSchema,
  /** Null while running, and for requests that failed before they had a prompt. */
  tallygate: provenanceSchema.nullable(),
})

export type RequestReport = z.infer<typeof requestReportSchema>

/** One entry of the backend's `GET /v1/models`: a base model, or an adapter with `parent` set. */
export const backendModelSchema = z.object({
  id: z.string().min(1),
  object: z.literal('model'),
  created: z.int(),
  owned_by: z.string(),
  root: z.string().optional(),
  parent: z.string().nullable().optional(),
  /** Longest prompt plus answer, in tokens. */
  max_model_len: z.int().positive().optional(),
  /** SHA-256 of the exact weights: of the base model, or of the adapter's content. */
  digest: digestSchema.optional(),
  /** The account that an adapter belongs to, and that alone may use it; absent: everyone may. */
  tenant: z.string().optional(),
})

export type BackendModel = z.infer<typeof backendModelSchema>

export const backendModelsSchema = z.object({ data: z.array(backendModelSchema) })
