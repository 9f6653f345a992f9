import { z } from 'zod'
import { planMerge } from '../../protocol/adapter-merge.ts'
import type { ResponseObject } from '../access/response-object.ts'
import {
  boundPromptTokens,
  boundToolTokens,
  type GenerationRequest,
} from '../dispatch/generation-request.ts'
import { ApiError } from '../errors.ts'
import { describeError } from '../log.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'
import { composeChatBody } from './responses/compose-chat-body.ts'
import { refuseUnsupported } from './responses/refuse-unsupported.ts'
import {
  type Item,
  itemSchema,
  RESPONSE_ID,
  type ResponseRequest,
  responseRequestSchema,
} from './responses/request-schema.ts'
import type { deletedResponseSchema, ResponseBody } from './responses/response-schema.ts'
import { createResponseWording } from './responses/response-wording.ts'
import { serveGeneration } from './serve-generation.ts'
import { nameTier, readTier } from './service-tier.ts'

/** `POST /v1/responses`: translated onto chat completions, so that any backend can serve it. */
export async function createResponse(c: AppContext): Promise<Response> {
  const { value, bytes } = await readJsonBody(c.req.raw, c.var.services.config)
  refuseUnsupported(value)
  const request = parseRequest(responseRequestSchema, value)
  // Who wants nothing kept and nothing that was is not looked up here: admission does that.
  const usesKept = request.store || request.previous_response_id
  const keyId = usesKept ? await readKeyId(c) : ''
  const items = [...(await readConversation(c, keyId, request)), ...listItems(request)]
  const body = composeChatBody(request, items)
  const bodyBytes = new TextEncoder().encode(JSON.stringify(body))
  const wording = createResponseWording({
    requestId: c.var.requestId,
    request,
    startedAtMs: c.var.startedAtMs,
    now: Date.now,
    serviceTier: () => nameTier(c.var.tier),
    keep: (response) => keepResponse(c, keyId, { response, items }),
  })
  return serveGeneration(c, {
    endpoint: 'responses',
    model: request.model,
    merge: planMerge(request.tallygate),
    ...readTier(request.service_tier),
    isStream: request.stream ?? false,
    wantsUsage: true,
    wantsAttribution: request.tallygate?.attribution ?? false,
    choiceCount: 1,
    computedChoiceCount: 1,
    maxCompletionTokens: request.max_output_tokens ?? null,
    promptTokenBound:
      boundPromptTokens(bodyBytes.length, body.messages.length) + boundToolTokens(request.tools),
    body,
    bodyBytes,
    receivedBytes: bytes,
    wording,
  } satisfies GenerationRequest)
}

/** `GET /v1/responses/{id}`: one that was kept for this key. */
export async function getResponse(c: AppContext): Promise<Response> {
  const kept = await (await requireResponse(c)).read()
  if (kept === null) throw unknownResponse()
  return c.body(kept.response, 200, { 'content-type': 'application/json' })
}

/** `DELETE /v1/responses/{id}`: it and its conversation are gone at once. */
export async function deleteResponse(c: AppContext): Promise<Response> {
  if (!(await (await requireResponse(c)).forget())) throw unknownResponse()
  const id = c.req.param('id') ?? ''
  const body: z.input<typeof deletedResponseSchema> = { id, object: 'response', deleted: true }
  return c.json(body)
}

async function readKeyId(c: AppContext): Promise<string> {
  return (await describeCaller(c, 'inference')).key.keyId
}

/** What a key asked to keep is nobody else's. */
function findKept(c: AppContext, keyId: string, id: string): DurableObjectStub<ResponseObject> {
  return c.var.services.response(`${c.var.caller.accountId}/${keyId}/${id}`)
}

async function requireResponse(c: AppContext): Promise<DurableObjectStub<ResponseObject>> {
  const keyId = await readKeyId(c)
  const id = c.req.param('id') ?? ''
  if (!RESPONSE_ID.test(id)) throw unknownResponse()
  return findKept(c, keyId, id)
}

function unknownResponse(detail: { readonly param?: string } = {}): ApiError {
  const message = 'There is no such response, or it was not kept for this key (`store`: true).'
  return new ApiError('not_found', { message, ...detail })
}

async function readConversation(
  c: AppContext,
  keyId: string,
  { previous_response_id: previousId }: ResponseRequest,
): Promise<readonly Item[]> {
  if (previousId == null) return []
  const kept = await findKept(c, keyId, previousId).read()
  if (kept === null) throw unknownResponse({ param: 'previous_response_id' })
  return z.array(itemSchema).parse(JSON.parse(kept.conversation))
}

function listItems({ input }: ResponseRequest): readonly Item[] {
  return typeof input === 'string' ? [{ type: 'message', role: 'user', content: input }] : input
}

async function keepResponse(
  c: AppContext,
  keyId: string,
  { response, items }: { readonly response: ResponseBody; readonly items: readonly Item[] },
): Promise<boolean> {
  const kept = {
    response: JSON.stringify(response),
    conversation: JSON.stringify([...items, ...response.output]),
  }
  try {
    return await findKept(c, keyId, response.id).keep(kept)
  } catch (error) {
    const { requestId, services } = c.var
    services.log('response_not_kept', { requestId, ...describeError(error) })
    return false
  }
}
