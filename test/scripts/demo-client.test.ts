import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { askStreamed, findReceipt, type GatewayAccess } from '../../scripts/demo-client.ts'

const USAGE = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }
const CREDIT = { contributor: 'ada', payee: `0x${'ab'.repeat(20)}`, weight_ppm: 1_000_000 }
const SPAN = { start: 0, end: 5, datum_id: 'lamp-1', contributor: 'ada' }

const frame = (fields: object) => `data: ${JSON.stringify({ id: 'chatcmpl-1', ...fields })}\n\n`
const token = (content: string) => frame({ choices: [{ delta: { content }, finish_reason: null }] })
const END = frame({
  choices: [],
  usage: USAGE,
  tallygate: { attribution: { contributors: [CREDIT], spans: [SPAN] } },
})

describe('the demo as a client', () => {
  let close = () => {}
  afterEach(() => close())

  /** A gateway that answers everything with these pieces of a body. */
  async function serve(status: number, pieces: readonly (string | Uint8Array)[]) {
    const server = createServer((_, res) => {
      res.writeHead(status, { 'content-type': 'text/event-stream' })
      for (const piece of pieces) res.write(piece)
      res.end()
    })
    close = () => server.close()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo // TCP, as asked for
    const baseUrl = `http://127.0.0.1:${port}/v1`
    return { baseUrl, apiKey: 'key', adminKey: 'admin' } satisfies GatewayAccess
  }

  const ask = (access: GatewayAccess) => {
    const pieces: string[] = []
    return askStreamed(access, { model: 'm', question: 'Who?' }, (text) => pieces.push(text)).then(
      (answer) => ({ ...answer, pieces }),
    )
  }

  it('reads answer, usage and attribution, wherever the stream is cut', async () => {
    const stream = Buffer.from(`: \n\n${token('Grün')}${token('e Lampe')}${END}data: [DONE]\n\n`)
    const bytes = Array.from(stream, (_, i) => stream.subarray(i, i + 1))
    const answer = await ask(await serve(200, bytes))
    expect(answer).toMatchObject({
      id: 'chatcmpl-1',
      text: 'Grüne Lampe',
      pieces: ['Grün', 'e Lampe'],
      usage: USAGE,
      attribution: { contributors: [CREDIT], spans: [SPAN] },
    })
  })

  it('fails on a stream that breaks off, and on one that reports an error', async () => {
    await expect(ask(await serve(200, [token('Gr')]))).rejects.toThrow('before [DONE]')
    close()
    const failure = `data: ${JSON.stringify({ error: { message: 'The backend died.' } })}\n\n`
    await expect(ask(await serve(200, [token('Gr'), failure]))).rejects.toThrow('The backend died.')
  })

  it('passes on what the gateway says when it refuses', async () => {
    await expect(ask(await serve(401, ['bad key']))).rejects.toThrow('answered 401: bad key')
  })

  it('takes a receipt that is not there yet for none', async () => {
    expect(await findReceipt(await serve(404, ['{}']), 'chatcmpl-1')).toBeNull()
  })
})
