import { PORTKEY_VERSION, startPortkey } from './portkey.ts'
import { type LineProcess, spawnLines } from './spawn-lines.ts'

/** A way to the mock upstream. */
export interface Peer {
  readonly name: string
  readonly url: string
  /** One set a caller. */
  readonly headers: readonly Readonly<Record<string, string>>[]
  /** Whose CPU time is counted, with all below it; null for the upstream itself. */
  readonly pid: number | null
}

export interface Peers {
  readonly direct: Peer
  readonly bareProxy: Peer
  readonly tallygate: Peer
  /** The same gateway behind Miniflare's own proxy. */
  readonly tallygateFront: Peer
  readonly portkey: Peer
}

export const ACCOUNT_COUNT = 64

/** Starts the upstream and everything that stands before it, each a process of its own. */
export async function startPeers(): Promise<{ peers: Peers; close: () => Promise<void> }> {
  const running: LineProcess[] = []
  const start = async <T>(script: string, ...args: string[]) => {
    const child = spawnLines([`${import.meta.dirname}/${script}`, ...args])
    running.push(child)
    return { pid: child.pid, ...(JSON.parse(await child.nextLine()) as T) } // the script's own words
  }
  const close = async () => {
    for (const child of running.toReversed()) await child.close()
  }
  try {
    const upstream = await start<{ url: string }>('mock-upstream.ts')
    const bare = await start<{ url: string }>('serve-bare-proxy.ts', upstream.url)
    const gateway = await start<{ url: string; frontUrl: string; apiKeys: string[] }>(
      'serve-gateway.ts',
      upstream.url,
      String(ACCOUNT_COUNT),
    )
    const portkey = await startPortkey()
    running.push(portkey.process)
    const headers = gateway.apiKeys.map((apiKey) => ({ authorization: `Bearer ${apiKey}` }))
    const { pid } = gateway
    const portkeyHeaders = {
      authorization: 'Bearer any',
      'x-portkey-provider': 'openai',
      'x-portkey-custom-host': `${upstream.url}/v1`,
    }
    const peers: Peers = {
      direct: { name: 'the upstream itself', url: upstream.url, headers: [{}], pid: null },
      bareProxy: { name: 'a bare proxy on workerd', url: bare.url, headers: [{}], pid: bare.pid },
      tallygate: { name: 'Tallygate', url: gateway.url, headers, pid },
      tallygateFront: {
        name: 'Tallygate, Miniflare before it',
        url: gateway.frontUrl,
        headers,
        pid,
      },
      portkey: {
        name: `Portkey ${PORTKEY_VERSION}, nothing metered`,
        url: portkey.url,
        headers: [portkeyHeaders],
        pid: portkey.process.pid,
      },
    }
    return { peers, close }
  } catch (error) {
    await close()
    throw error
  }
}
