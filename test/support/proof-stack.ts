import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { D1Database, R2Bucket } from '@cloudflare/workers-types'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { createTestClient, http, publicActions, walletActions } from 'viem'
import { startDaStandIn } from '../../scripts/da-stand-in.ts'
import { deployContracts, LOCAL_DEV_KEY } from '../../scripts/deploy-contracts.ts'
import { startLocalChain } from '../../scripts/local-chain.ts'
import { UsageAnchorClient } from '../../worker/proofs/anchor-client.ts'
import { ArchiveStore } from '../../worker/proofs/archive-store.ts'
import { BatchStore } from '../../worker/proofs/batch-store.ts'
import type { CyclePorts } from '../../worker/proofs/cycle-ports.ts'
import { createDaClient } from '../../worker/proofs/da-client.ts'

const ROOT = join(import.meta.dirname, '../..')

export type ProofStack = Awaited<ReturnType<typeof startProofStack>>

/** A real chain with the contract on it, a DA stand-in, D1 and R2, all empty. */
export async function startProofStack() {
  const stateDir = await mkdtemp(join(tmpdir(), 'proofs-'))
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: 'export default {}',
      telemetry: { enabled: false },
      d1Databases: { DB: 'db' },
      r2Buckets: { ARCHIVE: 'archive' },
    }),
  )
  const [chain, da, database] = await Promise.all([
    startLocalChain({ port: 0, stateDir: join(stateDir, 'chain') }),
    startDaStandIn({ port: 0, stateDir: join(stateDir, 'da') }),
    createDatabase(miniflare),
  ])
  const { usageAnchor } = await deployContracts({
    ...{ rpcUrl: chain.rpcUrl, privateKey: LOCAL_DEV_KEY, stateDir, usageAnchor: null },
  })
  const store = new BatchStore(database)
  return {
    stateDir,
    rpcUrl: chain.rpcUrl,
    da,
    usageAnchor,
    database,
    store,
    archive: new ArchiveStore((await miniflare.getR2Bucket('ARCHIVE')) as unknown as R2Bucket),
    /** Mines, reorganises, stops mining. */
    anvil: createAnvilClient(chain.rpcUrl),
    close: async () => {
      await Promise.all([miniflare.dispose(), chain.close(), da.close()])
      await rm(stateDir, { recursive: true })
    },
  }
}

/** What a cycle works with; time stands still unless `nowMs` is given. */
export function createPorts(stack: ProofStack, changes: Partial<CyclePorts> = {}): CyclePorts {
  return {
    store: stack.store,
    archive: stack.archive,
    da: createDaClient({ url: stack.da.url, timeoutMs: 10_000, sleep: async () => {} }),
    chain: new UsageAnchorClient({
      rpcUrl: stack.rpcUrl,
      contract: stack.usageAnchor,
      privateKey: LOCAL_DEV_KEY,
    }),
    nowMs: () => 1_800_000_000_000,
    sleep: async () => {},
    limits: {
      maxAgeMs: 0,
      maxBytes: 126_945,
      cycleMs: 60_000,
      confirmWaitMs: 0,
      pendingTooLongMs: 60_000,
      daPatienceMs: 3_600_000,
    },
    ...changes,
  }
}

async function createDatabase(miniflare: Miniflare): Promise<D1Database> {
  const database = (await miniflare.getD1Database('DB')) as unknown as D1Database
  const names = (await readdir(join(ROOT, 'migrations'))).filter((name) => name.endsWith('.sql'))
  for (const name of names.sort()) {
    const sql = await readFile(join(ROOT, 'migrations', name), 'utf8')
    await database.batch(
      sql.split('--> statement-breakpoint').map((s) => database.prepare(s.trim())),
    )
  }
  return database
}

function createAnvilClient(rpcUrl: string) {
  return createTestClient({ mode: 'anvil', transport: http(rpcUrl), cacheTime: 0 })
    .extend(publicActions)
    .extend(walletActions)
}
