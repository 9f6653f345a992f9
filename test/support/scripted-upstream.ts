import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** One request for text as the upstream sees it, and the means to answer it step by step. */
export interface Exchange {
  readonly requestId: string
  readonly headers: IncomingMessage['headers']
  // biome-ignore lint/suspicious/noExplicitAny: whatever the gateway sent
  readonly body: any
  readonly res: ServerResponse
  /** Resolves when the connection closes before the answer was ended: true; or after: false. */
  readonly cancelled: Promise<boolean>
  readonly startStream: () => void
  readonly sendFrame: (data: unknown) => void
  /** One token of text, in one frame. */
  readonly sendToken: (text: string) => void
  /** Finish reason and usage chunk, if `usage` is given. */
  readonly sendUsage: (usage?: object, tallygate?: object) => void
  /** The same and `[DONE]`; the connection stays open. */
  readonly sendEnding: (usage?: object, tallygate?: object) => void
  /** The same, and the end of the response. */
  readonly finishStream: (usage?: object, tallygate?: object) => void
  readonly sendJson: (status: number, body: unknown, headers?: Record<string, string>) => void
  /** Cuts the connection. */
  readonly die: () => void
}

type Script = (exchange: Exchange) => Promise<void> | void

export interface ScriptedModel {
  readonly script: Script
  /** Present: the gateway takes the upstream for our own backend and asks for reports. */
  readonly digest?: string
  readonly maxModelLength?: number
}

export interface ScriptedUpstream {
  readonly url: string
  /** All requests for text so far, in the order of their arrival. */
  readonly exchanges: readonly Exchange[]
  /** Reports by request id, for `GET /tallygate/requests/{id}`. */
  readonly reports: Map<string, unknown>
  readonly close: () => Promise<void>
}

/** A real HTTP server that speaks OpenAI's API as its scripts, one a model, say. */
export async function startScriptedUpstream(
  models: Readonly<Record<string, ScriptedModel>>,
): Promise<ScriptedUpstream> {
  const exchanges: Exchange[] = []
  const reports = new Map<string, unknown>()
  const server = createServer(async (req, res) => {
    const path = req.url ?? ''
    if (path === '/v1/models') return sendJson(res, 200, { data: listModels(models) })
    if (path.startsWith('/tallygate/requests/')) {
      const report = reports.get(path.split('/').at(-1) ?? '')
      return report === undefined ? sendJson(res, 404, {}) : sendJson(res, 200, report)
    }
    const exchange = createExchange(req, res, JSON.parse(await readText(req)))
    exchanges.push(exchange)
    await models[exchange.body.model]?.script(exchange)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo // listening on TCP
  return {
    url: `http://127.0.0.1:${port}`,
    exchanges,
    reports,
    close: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

function listModels(models: Readonly<Record<string, ScriptedModel>>) {
  return Object.entries(models).map(([id, { digest, maxModelLength }]) => ({
    id,
    object: 'model',
    created: 1_700_000_000,
    owned_by: 'test',
    ...(digest && { digest }),
    ...(maxModelLength && { max_model_len: maxModelLength }),
  }))
}

function createExchange(req: IncomingMessage, res: ServerResponse, body: unknown): Exchange {
  const requestId = String(req.headers['x-request-id'])
  const isChat = req.url === '/v1/chat/completions'
  const id = `${isChat ? 'chatcmpl-' : 'cmpl-'}${requestId.slice(4)}`
  const object = isChat ? 'chat.completion.chunk' : 'text_completion'
  const { model } = body as { model: string } // the gateway forwards nothing else
  const sendFrame = (data: unknown) => {
    res.write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`)
  }
  const sendChoice = (choice: object) =>
    sendFrame({ id, object, created: 1_700_000_000, model, choices: [{ index: 0, ...choice }] })
  const sendUsage = (usage?: object, tallygate?: object) => {
    sendChoice({ ...(isChat ? { delta: {} } : { text: '' }), finish_reason: 'stop' })
    if (usage) {
      sendFrame({ id, object, created: 1_700_000_000, model, choices: [], usage, tallygate })
    }
  }
  const sendEnding = (usage?: object, tallygate?: object) => {
    sendUsage(usage, tallygate)
    sendFrame('[DONE]')
  }
  return {
    requestId,
    headers: req.headers,
    body,
    res,
    cancelled: once(res, 'close').then(() => !res.writableFinished),
    startStream: () => {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      if (isChat) sendChoice({ delta: { role: 'assistant' }, finish_reason: null })
      else res.flushHeaders()
    },
    sendFrame,
    sendToken: (text) =>
      sendChoice({ ...(isChat ? { delta: { content: text } } : { text }), finish_reason: null }),
    sendUsage,
    sendEnding,
    finishStream: (usage, tallygate) => {
      sendEnding(usage, tallygate)
      res.end()
    },
    sendJson: (status, value, headers) => sendJson(res, status, value, headers),
    die: () => res.destroy(),
  }
}

function sendJson(
  res: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  res.writeHead(status, { 'content-type': 'application/json', ...headers })
  res.end(JSON.stringify(body))
}

async function readText(req: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of req) chunks.push(chunk as Buffer) // a request without setEncoding
  return Buffer.concat(chunks).toString('utf8')
}

/** An OpenAI `usage` object. */
export function usageOf(promptTokens: number, completionTokens: number) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  }
}
