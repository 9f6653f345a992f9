import { z } from 'zod'
import { type AdapterListing, adapterIdSchema } from '../../protocol/adapter-listing.ts'
import { addressSchema } from '../../protocol/digest.ts'
import { registerBackendAdapter } from '../dispatch/adapter-client.ts'
import { type AdapterHost, pickAdapterHosts, pickRefusal } from '../dispatch/adapter-copies.ts'
import type { TenantBody } from '../dispatch/tenant-call.ts'
import { ApiError } from '../errors.ts'
import { callerOf, composeAdapter, findHosts, toApiError } from './adapters.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'
import { answerUpload, isUpload, spreadUpload } from './spread-upload.ts'

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
  return answerUpload(c, () => register(c))
}

async function register(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:write')
  const { base_model: baseModel } = parseRequest(registerAdapterQuerySchema, c.req.query())
  const hosts = pickAdapterHosts(await findHosts(c), baseModel)
  const { MAX_UPLOAD_BYTES } = c.var.services.config
  const outcomes = isUpload(c)
    ? await spreadUpload(c, hosts, MAX_UPLOAD_BYTES, (host, body) => registerOn(c, host, body))
    : await spreadHub(c, hosts)
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
        : ({ outcome: 'held', listing: outcome } as const),
  }))
  return c.json(composeAdapter({ id: held.id, baseModel: held.base_model, copies }), 201)
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

async function registerOn(c: AppContext, host: AdapterHost, body: TenantBody): Promise<Outcome> {
  return registerBackendAdapter(host.backend, callerOf(c), body).catch((error) =>
    toApiError(c, error),
  )
}
