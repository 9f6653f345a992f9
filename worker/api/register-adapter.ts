import { z } from 'zod'
import { type AdapterListing, adapterIdSchema } from '../../protocol/adapter-listing.ts'
import { addressSchema } from '../../protocol/digest.ts'
import { type AdapterBody, registerBackendAdapter } from '../dispatch/adapter-client.ts'
import { type AdapterHost, pickAdapterHosts, pickRefusal } from '../dispatch/adapter-copies.ts'
import { fanOutUpload, tooLarge } from '../dispatch/upload-fan-out.ts'
import { ApiError } from '../errors.ts'
import { callerOf, composeAdapter, findHosts, toApiError } from './adapters.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'
import { parseRequest } from './parse-request.ts'
import { readInTime, readJsonBody } from './read-json-body.ts'

export const registerAdapterQuerySchema = z.object({
  base_model: z
    .string()
    .min(1)
    .max(200)
    .optional()
    .describe('What it was trained on; may be left out where there is one base model.'),
})

const fieldShape = {
  id: adapterIdSchema.optional().describe('Unique in the account, which alone sees and uses it.'),
  owner: addressSchema.optional().describe('Who is paid the adapter owner’s share.'),
  datanet: z.string().max(100).optional().describe('What it was trained on.'),
}

export const registerAdapterSchema = z
  .strictObject({
    repo: z.string().max(200).describe('`owner/name` of a public repository of the hub.'),
    revision: z.string().max(200).optional().describe('Branch, tag or commit; default `main`.'),
    ...fieldShape,
  })
  .meta({ id: 'AdapterOfHub' })

const fileSchema = z.string().meta({ format: 'binary' })

/** The form of an upload, for the reader of the reference: the backend parses it. */
export const adapterFormSchema = z
  .strictObject({
    'adapter_config.json': fileSchema,
    'adapter_model.safetensors': fileSchema,
    'tallygate.json': fileSchema.optional().describe('`id`, `owner` and `datanet`, as JSON.'),
    ...fieldShape,
  })
  .meta({ id: 'AdapterUpload', description: 'Files go by their file names.' })

type Outcome = AdapterListing | ApiError

/**
 * `POST /v1/adapters`: registers an adapter of the account's on every backend that serves its base
 * model. 201 when one of them has it, with what each says; the refusal when none has.
 */
export async function registerAdapter(c: AppContext): Promise<Response> {
  try {
    return await register(c)
  } catch (error) {
    if (!c.req.raw.bodyUsed) await discardBody(c)
    throw error
  }
}

async function register(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:write')
  const { base_model: baseModel } = parseRequest(registerAdapterQuerySchema, c.req.query())
  const hosts = pickAdapterHosts(await findHosts(c), baseModel)
  const isUpload = /^multipart\/form-data\s*;/i.test(c.req.header('content-type') ?? '')
  const outcomes = isUpload ? await spreadUpload(c, hosts) : await spreadHub(c, hosts)
  const held = outcomes.find((outcome) => !(outcome instanceof ApiError))
  const errors = outcomes.filter((outcome) => outcome instanceof ApiError)
  if (held === undefined || held instanceof ApiError)
    throw pickRefusal(errors) ?? new ApiError('no_backend')
  await c.var.services.catalogue.refresh()
  const copies = outcomes.map((outcome, index) => ({
    backendId: hosts[index]?.backend.id ?? '',
    copy:
      outcome instanceof ApiError
        ? ({ outcome: 'failed', error: outcome } as const)
        : ({ outcome: 'held', adapter: outcome } as const),
  }))
  return c.json(composeAdapter({ id: held.id, baseModel: held.base_model, copies }), 201)
}

/** A client that is cut off while it sends sees a broken connection instead of our answer. */
async function discardBody(c: AppContext): Promise<void> {
  const { MAX_UPLOAD_BYTES, UPLOAD_TIMEOUT_MS } = c.var.services.config
  if (Number(c.req.header('content-length') ?? 0) > 2 * MAX_UPLOAD_BYTES) return
  let leftBytes = MAX_UPLOAD_BYTES
  for await (const chunk of readInTime(c.req.raw, UPLOAD_TIMEOUT_MS)) {
    leftBytes -= chunk.length
    if (leftBytes < 0) return
  }
}

/** Sends the upload on as it comes, to all at once. */
async function spreadUpload(
  c: AppContext,
  hosts: readonly AdapterHost[],
): Promise<readonly Outcome[]> {
  const { MAX_UPLOAD_BYTES, UPLOAD_TIMEOUT_MS, UPSTREAM_SILENCE_MS } = c.var.services.config
  const sizeBytes = Number(c.req.header('content-length') ?? 0)
  if (sizeBytes > 2 * MAX_UPLOAD_BYTES) throw tooLarge(MAX_UPLOAD_BYTES)
  const upload = fanOutUpload(readInTime(c.req.raw, UPLOAD_TIMEOUT_MS), {
    branchCount: hosts.length,
    maxSizeBytes: MAX_UPLOAD_BYTES,
    maxSilenceMs: UPSTREAM_SILENCE_MS,
  })
  const contentType = c.req.header('content-type') ?? ''
  const sent = upload.run()
  const outcomes = upload.branches.map(async ({ body, stop }, index) => {
    try {
      return await registerOn(c, hosts[index], { contentType, body, sent })
    } finally {
      stop()
    }
  })
  const [answers] = await Promise.all([Promise.all(outcomes), sent])
  return answers
}

/** The first backend that takes it says which commit the others are to have. */
async function spreadHub(
  c: AppContext,
  hosts: readonly AdapterHost[],
): Promise<readonly Outcome[]> {
  const { value } = await readJsonBody(c.req.raw, c.var.services.config)
  const fields = parseRequest(registerAdapterSchema, value)
  const outcomes: Outcome[] = []
  let revision = fields.revision
  for (const host of hosts) {
    const body = JSON.stringify({ ...fields, ...(revision !== undefined && { revision }) })
    const sent = Promise.resolve()
    const outcome = await registerOn(c, host, { contentType: 'application/json', body, sent })
    if (!(outcome instanceof ApiError) && outcome.source?.kind === 'hub')
      revision = outcome.source.commit
    outcomes.push(outcome)
  }
  return outcomes
}

async function registerOn(
  c: AppContext,
  host: AdapterHost | undefined,
  body: AdapterBody,
): Promise<Outcome> {
  if (host === undefined) throw new Error('There is one copy of an upload for each backend.')
  return registerBackendAdapter(host.backend, callerOf(c), body).catch((error) =>
    toApiError(c, error),
  )
}
