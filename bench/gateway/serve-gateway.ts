import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startGateway } from '../../scripts/gateway.ts'

/**
 * A process: the gateway on workerd, in front of the server that the first argument names, with as
 * many accounts as the second says, whose limits are out of the way. Writes its two URLs and the API
 * keys as a line of JSON.
 */

const [upstreamUrl, accountCount] = process.argv.slice(2)
const ADMIN_KEY = 'tgadmin_0123456789abcdef0123456789abcdef'
const MAX_PER_MINUTE = 1_000_000_000

const stateDir = await mkdtemp(join(tmpdir(), 'tallygate-bench-'))
const gateway = await startGateway({
  port: 0,
  stateDir,
  onLog: () => {}, // each line has been written and read, as in production; nobody looks at it
  vars: {
    BACKENDS: JSON.stringify([{ id: 'mock', url: upstreamUrl }]),
    KEY_CHECKSUM_SECRET: 'a checksum secret for benchmarks alone',
    ADMIN_KEY,
    PAYEES: JSON.stringify({
      platform: `0x${'1'.repeat(40)}`,
      backend: `0x${'2'.repeat(40)}`,
      modelOwner: `0x${'3'.repeat(40)}`,
    }),
  },
})
const apiKeys: string[] = []
for (let index = 0; index < Number(accountCount); index++) {
  const response = await fetch(`${gateway.url}/admin/v1/accounts`, {
    method: 'POST',
    headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      name: 'bench',
      requests_per_minute: MAX_PER_MINUTE,
      tokens_per_minute: MAX_PER_MINUTE,
      max_concurrent_requests: 1_000,
      budget_micro_usd: Number.MAX_SAFE_INTEGER,
    }),
  })
  const account = (await response.json()) as { readonly api_key: string } // createAccount answers so
  apiKeys.push(account.api_key)
}
console.log(JSON.stringify({ url: gateway.url, frontUrl: gateway.frontUrl, apiKeys }))

process.once('SIGTERM', async () => {
  await gateway.close()
  await rm(stateDir, { recursive: true, force: true })
  process.exit(0)
})
