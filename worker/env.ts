import { z } from 'zod'
import { addressSchema } from '../protocol/digest.ts'
import type { AccountObject } from './access/account-object.ts'
import type { AnchorObject } from './proofs/anchor-object.ts'

/** What the platform hands the Worker: bindings by wrangler.toml, and variables as text. */
export interface Env {
  readonly DB: D1Database
  readonly ARCHIVE: R2Bucket
  readonly ACCOUNT: DurableObjectNamespace<AccountObject>
  readonly ANCHOR: DurableObjectNamespace<AnchorObject>
}

const jsonOf = <T extends z.ZodType>(schema: T) =>
  z
    .string()
    .transform((text, ctx) => {
      try {
        return JSON.parse(text) as unknown
      } catch {
        ctx.addIssue({ code: 'custom', message: 'must be JSON' })
        return z.NEVER
      }
    })
    .pipe(schema)

const backendSchema = z.strictObject({
  /** Names the backend in records; stays when its URL changes. */
  id: z.string().regex(/^[a-z0-9-]{1,40}$/),
  url: z.url(),
  /** Sent to it as `authorization: Bearer`; none is sent when absent. */
  token: z.string().min(1).optional(),
})

const privateKeySchema = z
  .string()
  .regex(/^0x[0-9a-f]{64}$/)
  .transform((value) => value as `0x${string}`) // the regex proves the template type

const configSchema = z.object({
  /** Backends that requests may be sent to. JSON list of `{id, url, token?}`; the operator's only way to name one. */
  BACKENDS: jsonOf(z.array(backendSchema).min(1).max(64)),
  /** Key of the HMAC that makes API keys refusable without a lookup; at least 32 characters. */
  KEY_CHECKSUM_SECRET: z.string().min(32),
  /** The operator's key for `/admin/v1`; at least 32 characters. Absent: the admin API answers 401 to all. */
  ADMIN_KEY: z.string().min(32).optional(),
  /** How long a reservation waits for its settlement before the sweep asks the backend, milliseconds. */
  RESERVATION_TTL_MS: z.coerce.number().int().min(1_000).max(3_600_000).default(60_000),
  /** How long a backend may stay silent before a request to it fails, milliseconds. */
  UPSTREAM_SILENCE_MS: z.coerce.number().int().min(100).max(600_000).default(120_000),
  /** Largest request body, bytes. */
  MAX_BODY_BYTES: z.coerce.number().int().min(1_024).max(50_000_000).default(4_194_304),
  /** Who is paid the platform's, the backend's and the base model owner's share. JSON of three addresses. */
  PAYEES: jsonOf(
    z.strictObject({ platform: addressSchema, backend: addressSchema, modelOwner: addressSchema }),
  ),
  /** Price in micro-USD for a million tokens: JSON `{version, prompt…, cached…, completion…}`. */
  PRICE: jsonOf(
    z.strictObject({
      version: z.int().min(1),
      promptMicroUsdPerMillion: z.int().min(0).max(1_000_000_000),
      cachedMicroUsdPerMillion: z.int().min(0).max(1_000_000_000),
      completionMicroUsdPerMillion: z.int().min(0).max(1_000_000_000),
    }),
  ).default({
    version: 1,
    promptMicroUsdPerMillion: 200_000,
    cachedMicroUsdPerMillion: 100_000,
    completionMicroUsdPerMillion: 600_000,
  }),
  /** JSON-RPC of the chain that batches are anchored on. Absent: batches wait. */
  CHAIN_RPC_URL: z.url().optional(),
  /** Address of the UsageAnchor contract. Absent: batches wait. */
  ANCHOR_ADDRESS: addressSchema.optional(),
  /** Key of the account that anchors; needs the contract's anchorer role and gas. */
  ANCHOR_PRIVATE_KEY: privateKeySchema.optional(),
  /** Base URL of an EigenDA proxy. Absent: batches are anchored with the archive as their only source. */
  DA_URL: z.url().optional(),
  /** A batch is cut when its oldest record is this old, milliseconds. */
  BATCH_MAX_AGE_MS: z.coerce.number().int().min(0).default(300_000),
  /** A batch is cut when its payload reaches this size, bytes; the default is what a 128 KiB EigenDA blob holds. */
  BATCH_MAX_BYTES: z.coerce.number().int().min(1_000).max(16_252_897).default(126_945),
  /** Origins that browsers may call from, comma separated; `*` for all. */
  CORS_ORIGINS: z.string().default('*'),
})

export type Config = Readonly<z.output<typeof configSchema>>

let parsed: { readonly env: object; readonly config: Config } | undefined

/** The Worker's variables, checked once an isolate. Throws an error that names each variable at fault. */
export function parseConfig(env: object): Config {
  if (parsed?.env === env) return parsed.config
  const result = configSchema.safeParse(env)
  if (!result.success) {
    const faults = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
    throw new Error(`Configuration: ${faults.join('; ')}`)
  }
  parsed = { env, config: Object.freeze(result.data) }
  return parsed.config
}
