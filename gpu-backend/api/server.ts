import { createServer, type Server } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { createApp } from './app.ts'
import type { Services } from './services.ts'

export interface RunningServer {
  /** `http://host:port`, with the port that was bound. */
  readonly url: string
  /**
   * Takes no more connections and resolves when the last answer has ended. When the signal is
   * aborted, connections that say nothing more are cut a second later.
   */
  readonly close: (signal: AbortSignal) => Promise<void>
}

interface ListenOptions {
  readonly host: string
  /** 0: any free port. */
  readonly port: number
}

/** Serves the API over HTTP. Rejects with Node's error (`EADDRINUSE`, …) when it cannot listen. */
export async function startServer(
  services: Services,
  { host, port }: ListenOptions,
): Promise<RunningServer> {
  const app = createApp(services)
  const listener = getRequestListener(app.fetch, { overrideGlobalObjects: false })
  const server = createServer((req, res) => void listener(req, res))
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  return { url: formatUrl(server, host), close: (signal) => closeServer(server, signal) }
}

function formatUrl(server: Server, host: string): string {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the server has no port')
  return `http://${host.includes(':') ? `[${host}]` : host}:${address.port}`
}

async function closeServer(server: Server, signal: AbortSignal): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()))
  // A connection that is kept alive becomes idle when its answer has ended.
  const idleTimer = setInterval(() => server.closeIdleConnections(), 50)
  const cutLater = () => setTimeout(() => server.closeAllConnections(), 1000).unref()
  if (signal.aborted) cutLater()
  signal.addEventListener('abort', cutLater, { once: true })
  await closed
  clearInterval(idleTimer)
}
