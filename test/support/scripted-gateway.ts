import { afterAll, beforeAll } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from './gateway-under-test.ts'
import { type ScriptedUpstream, startScriptedUpstream } from './scripted-upstream.ts'

interface ScriptedGatewayOptions {
  /** What the gateway knows of its one backend, besides its address. */
  readonly backend?: Partial<Parameters<typeof startGatewayUnderTest>[0][number]>
  readonly vars?: Readonly<Record<string, string>>
}

/** A gateway in front of an upstream with these models, for all tests of a file: before them, neither has fields. */
export function useScriptedGateway(
  models: Parameters<typeof startScriptedUpstream>[0],
  { backend, vars }: ScriptedGatewayOptions = {},
): { readonly upstream: ScriptedUpstream; readonly gateway: GatewayUnderTest } {
  const upstream = {} as ScriptedUpstream // its fields come before the first test
  const gateway = {} as GatewayUnderTest // likewise
  beforeAll(async () => {
    Object.assign(upstream, await startScriptedUpstream(models))
    const backends = [{ id: 'scripted', url: upstream.url, ...backend }]
    Object.assign(gateway, await startGatewayUnderTest(backends, vars))
  })
  afterAll(async () => {
    await gateway.close?.()
    await upstream.close?.()
  })
  return { upstream, gateway }
}
