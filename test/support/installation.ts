import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type RequestReport, requestReportSchema } from '../../protocol/backend.ts'
import type { UsageLine } from './gateway-under-test.ts'
import { writePeftAdapter } from './peft-adapter.ts'
import { type StartedStack, spawnStack, waitUntil } from './stack.ts'
import { TINY_CONFIG, writeTinyGguf } from './tiny-model.ts'

/** The four adapters of a test installation: mixed ranks on different modules. */
export const ADAPTER_IDS = ['ada-1', 'ada-2', 'ada-3', 'ada-4'] as const

/** Long enough to be caught in the middle of: the context takes a prompt beside it. */
export const LONG_ANSWER_TOKENS = 400

/** A folder with a tiny model and adapters, and `npm start` on it as often as a test wants. */
export interface Installation {
  readonly folder: string
  readonly modelPath: string
  readonly start: (...args: readonly string[]) => Promise<StartedStack>
  /** What the backend says of a request; null when it does not know it. */
  readonly report: (stack: StartedStack, requestId: string) => Promise<RequestReport | null>
  readonly remove: () => Promise<void>
}

/** `contextLength`: of the tiny model, in tokens. */
export async function createInstallation(
  config: { readonly contextLength?: number } = {},
): Promise<Installation> {
  const folder = await mkdtemp(join(tmpdir(), 'tallygate-e2e-'))
  const modelPath = join(folder, 'tiny.gguf')
  writeTinyGguf(modelPath, { seed: 7, config })
  for (const [index, id] of ADAPTER_IDS.entries()) {
    const dir = join(folder, 'adapters', id)
    await mkdir(dir, { recursive: true })
    await writePeftAdapter(dir, TINY_CONFIG, {
      rank: 2 ** (index + 1),
      modules: index % 2 === 0 ? ['q', 'v'] : ['q', 'k', 'v', 'o', 'gate', 'up', 'down'],
      seed: index + 1,
      manifest: { id, owner: `0x${String(index + 1).repeat(40)}` },
    })
  }
  const state = join(folder, 'state')
  const common = ['--port', '0', '--state', state, '--model', modelPath]
  return {
    folder,
    modelPath,
    start: (...args) => spawnStack([...common, '--adapters', join(folder, 'adapters'), ...args]),
    report: async (stack, requestId) => {
      const { backendToken } = JSON.parse(await readFile(join(state, 'secrets.json'), 'utf8'))
      const response = await fetch(`${stack.backendUrl}/tallygate/requests/${requestId}`, {
        headers: { authorization: `Bearer ${backendToken}` },
      })
      return response.status === 404 ? null : requestReportSchema.parse(await response.json())
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  }
}

/** What one streamed request looked like from outside. */
export interface StreamSeen {
  readonly requestId: string
  /** Token frames that arrived. */
  readonly frameCount: number
  readonly text: string
  /** The usage chunk, when the stream came to its end. */
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number } | null
  readonly ending: 'done' | 'aborted' | 'error_event' | 'cut'
}

/**
 * Streams a chat answer with plain fetch and counts frames; `abortAfter` leaves after that many.
 * Null when no answer began (the connection was refused or the status was not 200).
 */
export async function streamChat(
  stack: StartedStack,
  options: { readonly model: string; readonly maxTokens: number; readonly abortAfter?: number },
  onFrame: (frameCount: number) => void = () => {},
): Promise<StreamSeen | null> {
  const abort = new AbortController()
  const response = await fetch(`${stack.baseUrl}/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${stack.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      model: options.model,
      messages: [{ role: 'user', content: 'Tell me something.' }],
      max_tokens: options.maxTokens,
      temperature: 1,
      stream: true,
      stream_options: { include_usage: true },
    }),
    signal: abort.signal,
  }).catch(() => null)
  if (response === null || !response.ok || response.body === null) return null
  const seen = { text: '', frameCount: 0, usage: null as StreamSeen['usage'] }
  const finish = (ending: StreamSeen['ending']): StreamSeen => ({
    requestId: response.headers.get('x-request-id') ?? '',
    ...seen,
    ending,
  })
  try {
    let rest = ''
    for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
      const frames = (rest + bytes).split('\n\n')
      rest = frames.pop() ?? ''
      for (const data of frames.filter((frame) => frame.startsWith('data: '))) {
        if (data === 'data: [DONE]') return finish('done')
        const chunk = JSON.parse(data.slice(6))
        if (chunk.error !== undefined) return finish('error_event')
        if (chunk.usage) {
          const { prompt_tokens, completion_tokens } = chunk.usage
          seen.usage = { prompt_tokens, completion_tokens }
        }
        const choice = chunk.choices[0]
        if (choice?.delta.content === undefined || choice.finish_reason !== null) continue
        seen.text += choice.delta.content
        seen.frameCount += 1
        onFrame(seen.frameCount)
        if (seen.frameCount === options.abortAfter) {
          abort.abort()
          return finish('aborted')
        }
      }
    }
  } catch {
    // the connection was cut
  }
  return finish('cut')
}

export async function getJson(
  stack: Pick<StartedStack, 'baseUrl' | 'apiKey'>,
  path: string,
  // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
): Promise<any> {
  const response = await fetch(`${stack.baseUrl}${path}`, {
    headers: { authorization: `Bearer ${stack.apiKey}` },
  })
  return response.json()
}

/** A call to `/admin/v1` with the operator's key; its JSON. */
export async function callAdmin(
  stack: Pick<StartedStack, 'baseUrl' | 'adminKey'>,
  method: string,
  path: string,
  json?: unknown,
  // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
): Promise<any> {
  const response = await fetch(stack.baseUrl.replace(/\/v1$/, `/admin/v1${path}`), {
    method,
    headers: { authorization: `Bearer ${stack.adminKey}`, 'content-type': 'application/json' },
    ...(json !== undefined && { body: JSON.stringify(json) }),
  })
  return response.json()
}

/** Waits until nothing is reserved or on its way to D1, and returns all records that D1 holds. */
export async function settledUsage(stack: StartedStack): Promise<readonly UsageLine[]> {
  const { account_id: accountId } = await getJson(stack, '/key')
  await waitUntil(
    async () => {
      await getJson(stack, '/usage?limit=1') // brings what is settled to D1
      return callAdmin(stack, 'GET', `/accounts/${accountId}`)
    },
    (state) => state.open_reservation_count === 0 && state.outbox_count === 0,
  )
  const usage = await getJson(stack, '/usage?limit=1000')
  return usage.data
}
