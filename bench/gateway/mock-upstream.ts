import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { CHUNK_COUNT, CHUNK_INTERVAL_MS, monotonicUs } from './stream-clock.ts'

/**
 * A process: an OpenAI server that takes no time. Answers are made beforehand; each chunk of a
 * stream says when it was sent, on a clock that all processes of this machine share. Writes its
 * URL as a line of JSON.
 */

const created = Math.floor(Date.now() / 1_000)
const usage = { prompt_tokens: 12, completion_tokens: CHUNK_COUNT, total_tokens: 12 + CHUNK_COUNT }
const models = JSON.stringify({
  object: 'list',
  data: [{ id: 'mock', object: 'model', created, owned_by: 'bench' }],
})
const answer = JSON.stringify({
  id: 'chatcmpl-bench',
  object: 'chat.completion',
  created,
  model: 'mock',
  choices: [
    {
      index: 0,
      message: { role: 'assistant', content: 'Hello! How can I help you today?', refusal: null },
      logprobs: null,
      finish_reason: 'stop',
    },
  ],
  usage,
})

function composeChunk(choices: readonly object[], extra: object = {}): string {
  const head = { id: 'chatcmpl-bench', object: 'chat.completion.chunk', created, model: 'mock' }
  return `data: ${JSON.stringify({ ...head, choices, ...extra })}\n\n`
}

const choice = (delta: object, finishReason: string | null = null) =>
  composeChunk([{ index: 0, delta, finish_reason: finishReason }])

const tail = `${choice({}, 'stop')}${composeChunk([], { usage })}data: [DONE]\n\n`

function streamAnswer(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write(choice({ role: 'assistant', content: '' }))
  let sentCount = 0
  const send = () => {
    response.write(choice({ content: `${monotonicUs()} ` }))
    sentCount += 1
    if (sentCount < CHUNK_COUNT) return
    clearInterval(timer)
    response.end(tail)
  }
  const timer = setInterval(send, CHUNK_INTERVAL_MS)
  response.on('close', () => clearInterval(timer))
  send()
}

function serve(request: IncomingMessage, response: ServerResponse): void {
  if (request.method === 'GET') {
    response.writeHead(200, { 'content-type': 'application/json' }).end(models)
    return
  }
  // Nothing but the flag is of interest: the caller's bytes or a gateway's own spelling of them.
  let isStream = false
  request.on('data', (bytes: Buffer) => {
    isStream ||= bytes.includes('"stream":true')
  })
  request.on('end', () => {
    if (isStream) return streamAnswer(response)
    const headers = { 'content-type': 'application/json', 'content-length': answer.length }
    response.writeHead(200, headers).end(answer)
  })
}

const server = createServer({ keepAliveTimeout: 60_000 }, serve)
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo // of a TCP server that listens
  console.log(JSON.stringify({ url: `http://127.0.0.1:${port}` }))
})
