import { z } from 'zod'
import { contributorCreditSchema, matchedSpanSchema, usageSchema } from '../protocol/backend.ts'
import { type Receipt, receiptSchema } from '../protocol/receipt.ts'

/** Where the gateway is, and the keys of a caller and of the operator. */
export interface GatewayAccess {
  /** Ends in `/v1`. */
  readonly baseUrl: string
  readonly apiKey: string
  readonly adminKey: string
}

const attributionSchema = z.object({
  contributors: z.array(contributorCreditSchema),
  spans: z.array(matchedSpanSchema),
})

const chunkSchema = z.object({
  id: z.string().optional(),
  choices: z
    .array(z.object({ delta: z.object({ content: z.string().nullish() }).optional() }))
    .default([]),
  usage: usageSchema.nullish(),
  tallygate: z.object({ attribution: attributionSchema }).optional(),
  error: z.object({ message: z.string() }).optional(),
})

const modelsSchema = z.object({
  data: z.array(z.object({ id: z.string(), parent: z.string().nullish() })),
})

export type Model = z.infer<typeof modelsSchema>['data'][number]

/** A whole answer, as the stream brought it. */
export interface StreamedAnswer {
  /** Of the response; receipts are asked for by it. */
  readonly id: string
  readonly text: string
  readonly firstTokenMs: number
  readonly totalMs: number
  readonly usage: z.infer<typeof usageSchema>
  /** Empty lists: nobody's data supports the answer. */
  readonly attribution: z.infer<typeof attributionSchema>
}

/** The models that the key may use. */
export async function listModels(access: GatewayAccess): Promise<readonly Model[]> {
  const response = await call(`${access.baseUrl}/models`, access.apiKey)
  return modelsSchema.parse(await response.json()).data
}

/** Asks one question, greedily and streamed; `onText` gets the answer as it comes. */
export async function askStreamed(
  access: GatewayAccess,
  { model, question }: { readonly model: string; readonly question: string },
  onText: (text: string) => void,
): Promise<StreamedAnswer> {
  const startedAtMs = performance.now()
  const response = await call(`${access.baseUrl}/chat/completions`, access.apiKey, {
    model,
    messages: [{ role: 'user', content: question }],
    temperature: 0,
    max_tokens: 64,
    stream: true,
    stream_options: { include_usage: true },
    tallygate: { attribution: true },
  })
  let id: string | undefined
  let text = ''
  let firstTokenMs: number | undefined
  let usage: StreamedAnswer['usage'] | undefined
  let attribution: StreamedAnswer['attribution'] = { contributors: [], spans: [] }
  for await (const data of readEvents(response)) {
    const chunk = chunkSchema.parse(JSON.parse(data))
    if (chunk.error) throw new Error(`The stream failed: ${chunk.error.message}`)
    const piece = chunk.choices[0]?.delta?.content ?? ''
    if (piece !== '') {
      firstTokenMs ??= performance.now() - startedAtMs
      onText(piece)
    }
    id ??= chunk.id
    text += piece
    usage = chunk.usage ?? usage
    attribution = chunk.tallygate?.attribution ?? attribution
  }
  if (id === undefined || usage === undefined || firstTokenMs === undefined) {
    throw new Error(`The stream of ${model} ended without an answer, an id or its usage.`)
  }
  return { id, text, firstTokenMs, totalMs: performance.now() - startedAtMs, usage, attribution }
}

/** The receipt of a response; null while the gateway has not written its record down yet. */
export async function findReceipt(
  access: GatewayAccess,
  responseId: string,
): Promise<Receipt | null> {
  const response = await fetch(`${access.baseUrl}/receipts/${responseId}`, {
    headers: { authorization: `Bearer ${access.apiKey}` },
  })
  if (response.status === 404) return null
  return receiptSchema.parse(await (await requireOk(response)).json())
}

/** Runs one turn of the anchor cycle now, instead of at the next cron. */
export async function runAnchorCycle(access: GatewayAccess): Promise<void> {
  const url = new URL('/admin/v1/anchor', access.baseUrl).href
  await (await call(url, access.adminKey, {})).body?.cancel()
}

/** GET, or POST where there is a body; throws the server's own sentence for a status that is no success. */
async function call(url: string, key: string, body?: unknown): Promise<Response> {
  const response = await fetch(url, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
  return requireOk(response)
}

async function requireOk(response: Response): Promise<Response> {
  if (response.ok) return response
  throw new Error(`${response.url} answered ${response.status}: ${await response.text()}`)
}

/** The data of each server-sent event until `[DONE]`; throws where a stream ends without it. */
async function* readEvents(response: Response): AsyncGenerator<string> {
  if (response.body === null) throw new Error('The answer has no body.')
  let rest = ''
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = `${rest}${piece}`.split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      if (!line.startsWith('data:')) continue
      const data = line.slice('data:'.length).trim()
      if (data === '[DONE]') return
      yield data
    }
  }
  throw new Error('The stream broke off before [DONE].')
}
