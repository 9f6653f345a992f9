import { z } from 'zod'
import { addressSchema } from '../protocol/digest.ts'
import { LAST_CONFIG_PRICE_VERSION } from './ledger/price-list.ts'

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

export const priceSchema = z.strictObject({
  version: z.int().min(1).max(LAST_CONFIG_PRICE_VERSION),
  promptMicroUsdPerMillion: z.int().min(0).max(1_000_000_000),
  cachedMicroUsdPerMillion: z.int().min(0).max(1_000_000_000),
  completionMicroUsdPerMillion: z.int().min(0).max(1_000_000_000),
})

export const backendSchema = z.strictObject({
  /** Names the backend in records; stays when its URL changes. */
  id: z.string().regex(/^[a-z0-9-]{1,40}$/),
  url: z.url(),
  /** Sent to it as `authorization: Bearer`; none is sent when absent. */
  token: z.string().min(1).optional(),
  /** Takes no new requests; those under way end, and the sweep still asks it. */
  draining: z.boolean().default(false),
  /** What requests that it serves cost; `PRICE` when absent. Its versions are its own. */
  price: priceSchema.optional(),
})

function hasUniqueIds(backends: readonly { readonly id: string }[]): boolean {
  return new Set(backends.map(({ id }) => id)).size === backends.length
}

const privateKeySchema = z
  .string()
  .regex(/^0x[0-9a-f]{64}$/)
  .transform((value) => value as `0x${string}`) // the regex proves the template type

/** Every variable of the Worker: unit, default and meaning when absent are in its description, and `.env.example` is made from them. */
export const configSchema = z.object({
  BACKENDS: jsonOf(
    z.array(backendSchema).min(1).max(64).refine(hasUniqueIds, 'two backends have one id'),
  ).describe(
    'Backends that requests may be sent to. JSON list of `{id, url, token?, draining?, price?}`, `price` as in PRICE; the operator’s only way to name one.',
  ),
  KEY_CHECKSUM_SECRET: z
    .string()
    .min(32)
    .describe(
      'Key of the HMAC that makes API keys refusable without a lookup; at least 32 characters.',
    ),
  ADMIN_KEY: z
    .string()
    .min(32)
    .optional()
    .describe(
      'The operator’s key for `/admin/v1`; at least 32 characters. Absent: the admin API answers 401 to all.',
    ),
  RESERVATION_TTL_MS: z.coerce
    .number()
    .int()
    .min(1_000)
    .max(3_600_000)
    .default(60_000)
    .describe(
      'How long a reservation waits for its settlement before the sweep asks the backend, milliseconds.',
    ),
  UPSTREAM_SILENCE_MS: z.coerce
    .number()
    .int()
    .min(100)
    .max(600_000)
    .default(120_000)
    .describe('How long a backend may stay silent before a request to it fails, milliseconds.'),
  UPSTREAM_ANSWER_MS: z.coerce
    .number()
    .int()
    .min(100)
    .max(3_600_000)
    .default(600_000)
    .describe(
      'How long a server that tells no progress may take for an answer in one piece, milliseconds.',
    ),
  FREE_CALLS_PER_MINUTE: z.coerce
    .number()
    .int()
    .min(1)
    .max(1_000_000)
    .default(6_000)
    .describe(
      'Calls that cost nothing (usage, keys, models, adapters, what was kept) of one key in one isolate, a minute; more are 429.',
    ),
  MAX_BODY_BYTES: z.coerce
    .number()
    .int()
    .min(1_024)
    .max(50_000_000)
    .default(4_194_304)
    .describe('Largest request body, bytes.'),
  BODY_TIMEOUT_MS: z.coerce
    .number()
    .int()
    .min(100)
    .max(600_000)
    .default(120_000)
    .describe('How long a request body may take to arrive, milliseconds.'),
  MAX_UPLOAD_BYTES: z.coerce
    .number()
    .int()
    .min(1_024)
    .max(10_000_000_000)
    .default(100_000_000)
    .describe(
      'Largest upload, bytes; Cloudflare has a limit of its own by plan. Default 100 MB, the smallest of those.',
    ),
  UPLOAD_TIMEOUT_MS: z.coerce
    .number()
    .int()
    .min(100)
    .max(3_600_000)
    .default(300_000)
    .describe('How long an upload may take to arrive, milliseconds.'),
  PAYEES: jsonOf(
    z.strictObject({ platform: addressSchema, backend: addressSchema, modelOwner: addressSchema }),
  ).describe(
    'Who is paid the platform’s, the backend’s and the base model owner’s share. JSON of three addresses.',
  ),
  PRICE: jsonOf(priceSchema)
    .default({
      version: 1,
      promptMicroUsdPerMillion: 200_000,
      cachedMicroUsdPerMillion: 100_000,
      completionMicroUsdPerMillion: 600_000,
    })
    .describe(
      'Price in micro-USD for a million tokens: JSON `{version, prompt…, cached…, completion…}`.',
    ),
  CHAIN_RPC_URL: z
    .url()
    .optional()
    .describe('JSON-RPC of the chain that batches are anchored on. Absent: batches wait.'),
  ANCHOR_ADDRESS: addressSchema
    .optional()
    .describe('Address of the UsageAnchor contract. Absent: batches wait.'),
  ANCHOR_PRIVATE_KEY: privateKeySchema
    .optional()
    .describe('Key of the account that anchors; needs the contract’s anchorer role and gas.'),
  DA_URL: z
    .url()
    .optional()
    .describe(
      'Base URL of an EigenDA proxy. Absent: batches are anchored with the archive as their only source.',
    ),
  BATCH_MAX_AGE_MS: z.coerce
    .number()
    .int()
    .min(0)
    .default(300_000)
    .describe('A batch is cut when its oldest record is this old, milliseconds.'),
  BATCH_MAX_BYTES: z.coerce
    .number()
    .int()
    .min(1_000)
    .max(16_252_897)
    .default(126_945)
    .describe(
      'A batch is cut when its payload reaches this size, bytes; the default is what a 128 KiB EigenDA blob holds.',
    ),
  WEBHOOK_LOOPBACK: z
    .enum(['true', 'false'])
    .default('false')
    .transform((value) => value === 'true')
    .describe(
      '`true` lets alert webhooks call this machine, by http too; for tests. Default false.',
    ),
  REFERENCE_SCRIPT_URL: z
    .union([z.url({ protocol: /^https?$/ }), z.literal('none').transform(() => null)])
    .default('https://cdn.jsdelivr.net/npm/@scalar/api-reference@1.72.1/dist/browser/standalone.js')
    .describe(
      'Where `/reference` loads Scalar from: the file `dist/browser/standalone.js` of @scalar/api-reference 1.72.1, whose hash is checked. `none`: the page stands without it.',
    ),
  OTLP_ENDPOINT: z
    .url()
    .optional()
    .describe(
      'Base URL of an OTLP/HTTP receiver that spans and metrics are sent to as JSON. Absent: nothing is sent.',
    ),
  OTLP_HEADERS: jsonOf(z.record(z.string(), z.string()))
    .default({})
    .describe('Headers of each export, JSON object; what a receiver wants as its key.'),
  STRIPE_SECRET_KEY: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Secret or restricted key that may write meter events. Absent: Stripe is told nothing.',
    ),
  STRIPE_METER_EVENT_NAME: z
    .string()
    .min(1)
    .max(100)
    .optional()
    .describe(
      'Event name of the Stripe meter that sums micro-USD. Absent: Stripe is told nothing.',
    ),
  STRIPE_URL: z
    .url({ protocol: /^https?$/ })
    .default('https://api.stripe.com')
    .describe('Base URL of Stripe’s API. Default https://api.stripe.com.'),
  CORS_ORIGINS: z
    .string()
    .default('*')
    .describe('Origins that browsers may call from, comma separated; `*` for all.'),
})
