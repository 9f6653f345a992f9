import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { z } from 'zod'
import { startGateway } from '../../scripts/gateway.ts'
import type { backendSchema } from '../../worker/config-schema.ts'
import { waitUntil } from './stack.ts'

const ADMIN_KEY = 'tgadmin_0123456789abcdef0123456789abcdef'

/** A row of `GET /v1/usage`, as far as tests look at it. */
export interface UsageLine {
  readonly request_id: string
  readonly outcome: string
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly fee_micro_usd: number
}

export interface GatewayUnderTest {
  readonly url: string
  readonly apiKey: string
  readonly accountId: string
  readonly stateDir: string
  readonly adminKey: string
  /** A call with the API key. */
  readonly call: (
    path: string,
    init?: RequestInit & { readonly json?: unknown },
  ) => Promise<Response>
  /** A call with the operator's key; its JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
  readonly admin: (method: string, path: string, json?: unknown) => Promise<any>
  /** Waits until nothing is reserved or on its way to D1; returns the records of some requests. */
  readonly settledUsage: (requestIds: readonly string[]) => Promise<readonly UsageLine[]>
  /** Everything that the Worker and its runtime wrote to the console. */
  readonly logLines: readonly string[]
  readonly close: () => Promise<void>
}

/** The built Worker on a real workerd, in front of `backends`, with a fresh account. */
export async function startGatewayUnderTest(
  backends: readonly z.input<typeof backendSchema>[],
  vars: Readonly<Record<string, string>> = {},
): Promise<GatewayUnderTest> {
  const logLines: string[] = []
  const stateDir = await mkdtemp(join(tmpdir(), 'tallygate-gateway-'))
  const gateway = await startGateway({
    port: 0,
    stateDir,
    onLog: (line) => logLines.push(line),
    vars: {
      BACKENDS: JSON.stringify(backends),
      KEY_CHECKSUM_SECRET: 'a checksum secret that tests use alone',
      ADMIN_KEY,
      PAYEES: JSON.stringify({
        platform: `0x${'1'.repeat(40)}`,
        backend: `0x${'2'.repeat(40)}`,
        modelOwner: `0x${'3'.repeat(40)}`,
      }),
      ...vars,
    },
  })
  const admin = async (method: string, path: string, json?: unknown) => {
    const response = await fetch(`${gateway.url}/admin/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
      ...(json !== undefined && { body: JSON.stringify(json) }),
    })
    // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
    return response.json() as Promise<any>
  }
  const account = await admin('POST', '/accounts', { name: 'test' })
  const call: GatewayUnderTest['call'] = (path, { json, ...init } = {}) =>
    fetch(`${gateway.url}${path}`, {
      ...(json !== undefined && { method: 'POST', body: JSON.stringify(json) }),
      ...init,
      headers: {
        authorization: `Bearer ${account.api_key}`,
        'content-type': 'application/json',
        ...(init.headers as Record<string, string> | undefined), // tests pass plain objects
      },
    })
  return {
    url: gateway.url,
    apiKey: account.api_key,
    accountId: account.id,
    stateDir,
    adminKey: ADMIN_KEY,
    call,
    admin,
    settledUsage: async (requestIds) => {
      await waitUntil(
        async () => {
          await call('/v1/usage?limit=1') // brings what is settled to D1
          return admin('GET', `/accounts/${account.id}`)
        },
        (state) => state.open_reservation_count + state.outbox_count === 0,
        15_000,
      )
      const usage = (await (await call('/v1/usage?limit=1000')).json()) as { data: UsageLine[] }
      return usage.data.filter((line) => requestIds.includes(line.request_id))
    },
    logLines,
    close: async () => {
      await gateway.close()
      await rm(stateDir, { recursive: true, force: true })
    },
  }
}
