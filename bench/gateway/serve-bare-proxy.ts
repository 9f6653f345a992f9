import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { claimPort } from '../../scripts/free-port.ts'

/**
 * A process: the least that a Worker can do, on the same workerd: it passes the request and the
 * answer on. Writes its URL as a line of JSON.
 */

const [upstreamUrl] = process.argv.slice(2)
const SCRIPT = `export default {
  fetch(request, env) {
    const { pathname } = new URL(request.url)
    const { method, headers, body } = request
    return env.NETWORK.fetch(env.UPSTREAM + pathname, { method, headers, body })
  },
}`

const port = await claimPort(0)
const miniflare = new Miniflare(
  convertV4MiniflareOptions({
    host: '127.0.0.1',
    port: 0,
    telemetry: { enabled: false },
    workers: [
      {
        name: 'proxy',
        modules: true,
        script: SCRIPT,
        compatibilityDate: '2026-10-01',
        bindings: { UPSTREAM: upstreamUrl ?? '' },
        serviceBindings: { NETWORK: { network: { allow: ['private'] } } }, // as scripts/gateway.ts
        unsafeDirectSockets: [{ host: '127.0.0.1', port }],
      },
    ],
  }),
)
await miniflare.ready
console.log(JSON.stringify({ url: `http://127.0.0.1:${port}` }))
process.once('SIGTERM', async () => {
  await miniflare.dispose()
  process.exit(0)
})
