import { mkdir, readdir, readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { getCACertificates } from 'node:tls'
import { build } from 'esbuild'
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from 'miniflare'
import { claimPort } from './free-port.ts'

/** Below the state folder: a process id a line, of each workerd that ran on it. */
export const WORKERD_PID_FILE = 'workerd.pids'

const ROOT = join(import.meta.dirname, '..')

export interface GatewayOptions {
  /** TCP port on 127.0.0.1; 0 takes a free one. */
  readonly port: number
  /** Where D1, Durable Objects and R2 keep their files; created when missing. */
  readonly stateDir: string
  /** The Worker's variables (worker/env.ts), as text. */
  readonly vars: Readonly<Record<string, string>>
  /** Takes each line that the Worker or its runtime writes; the console where absent. */
  readonly onLog?: (line: string) => void
}

export interface Gateway {
  readonly url: string
  /** The same Worker behind Miniflare's own proxy, for whoever measures the difference. */
  readonly frontUrl: string
  /** The Worker's D1 database, for tests and scripts that look at what was recorded. */
  readonly database: () => ReturnType<Miniflare['getD1Database']>
  /** What the cron trigger does, once. */
  readonly runScheduled: () => Promise<void>
  readonly close: () => Promise<void>
}

/**
 * Runs the Worker on a local workerd with the bindings of wrangler.toml: real D1, Durable Objects
 * and R2, kept in `stateDir`. Requests reach the Worker directly, with no proxy before it. Throws
 * when the port is taken.
 */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { onLog } = options
  const port = await claimPort(options.port)
  await mkdir(options.stateDir, { recursive: true })
  guardWorkerd(options.stateDir)
  const listenersBefore = listSignalListeners()
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      host: '127.0.0.1',
      port: 0,
      log: new Log(LogLevel.ERROR),
      resourcePersistencePath: options.stateDir,
      ...(onLog && { handleStructuredLogs: ({ message }) => onLog(message) }),
      telemetry: { enabled: false },
      workers: [
        {
          name: 'tallygate',
          modules: true,
          script: await bundleWorker(),
          compatibilityDate: '2026-10-01',
          compatibilityFlags: ['enable_request_signal'],
          bindings: { ...options.vars },
          d1Databases: { DB: 'tallygate' },
          r2Buckets: { ARCHIVE: 'tallygate-archive' },
          serviceBindings: { NETWORK: { network: describeNetwork() } },
          durableObjects: {
            ACCOUNT: { className: 'AccountObject', useSQLite: true },
            RESPONSE: { className: 'ResponseObject', useSQLite: true },
            ANCHOR: { className: 'AnchorObject', useSQLite: true },
          },
          unsafeDirectSockets: [{ host: '127.0.0.1', port }],
        },
      ],
    }),
  )
  const frontUrl = (await miniflare.ready).origin
  dropSignalListeners(listenersBefore)
  const database = () => miniflare.getD1Database('DB')
  await applyMigrations(await database())
  return {
    url: `http://127.0.0.1:${port}`,
    frontUrl,
    database,
    runScheduled: async () => {
      const worker = await miniflare.getWorker('tallygate')
      await worker.scheduled({})
    },
    close: () => miniflare.dispose(),
  }
}

/** Names the wrapper as workerd, so that none is left behind when this process is killed outright. */
function guardWorkerd(stateDir: string): void {
  if (process.platform === 'win32') return
  process.env.WORKERD_BINARY ??= process.env.MINIFLARE_WORKERD_PATH ?? findWorkerd()
  process.env.WORKERD_PID_FILE = join(stateDir, WORKERD_PID_FILE)
  process.env.MINIFLARE_WORKERD_PATH = join(import.meta.dirname, 'workerd-guarded.sh')
}

/** The binary that Miniflare itself would run. */
function findWorkerd(): string {
  const miniflareRequire = createRequire(createRequire(import.meta.url).resolve('miniflare'))
  return miniflareRequire('workerd').default
}

/** What Miniflare's own service for it reaches and trusts. */
function describeNetwork() {
  const trustedCertificates = getCACertificates(process.platform === 'win32' ? 'default' : 'extra')
  return {
    allow: ['public', 'private', '240.0.0.0/4'],
    tlsOptions: { trustBrowserCas: true, trustedCertificates },
  }
}

type SignalListener = readonly [NodeJS.Signals, NodeJS.SignalsListener]

function listSignalListeners(): SignalListener[] {
  return (['SIGINT', 'SIGTERM'] as const).flatMap((signal) =>
    process.listeners(signal).map((listener): SignalListener => [signal, listener]),
  )
}

/** Miniflare ends the process at once on a signal; whoever started it has more to close. */
function dropSignalListeners(kept: readonly SignalListener[]): void {
  for (const [signal, listener] of listSignalListeners()) {
    if (!kept.some((entry) => entry[1] === listener)) process.off(signal, listener)
  }
}

async function bundleWorker(): Promise<string> {
  const result = await build({
    entryPoints: [join(ROOT, 'worker/index.ts')],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'browser'],
    inject: [join(ROOT, 'worker/direct-fetch.ts')],
    external: ['cloudflare:*'],
    tsconfig: join(ROOT, 'worker/tsconfig.json'),
    logLevel: 'silent',
  })
  const [output] = result.outputFiles
  if (output === undefined) throw new Error('esbuild wrote no bundle.')
  return output.text
}

/** Applies what `wrangler d1 migrations apply` would, and keeps the same book of it. */
async function applyMigrations(db: Awaited<ReturnType<Gateway['database']>>): Promise<void> {
  await db
    .prepare(
      'CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)',
    )
    .run()
  const applied = await db.prepare('SELECT name FROM d1_migrations').all<{ name: string }>()
  const done = new Set(applied.results.map((row) => row.name))
  const folder = join(ROOT, 'migrations')
  const names = (await readdir(folder)).filter((name) => name.endsWith('.sql')).sort()
  for (const name of names.filter((candidate) => !done.has(candidate))) {
    const statements = (await readFile(join(folder, name), 'utf8'))
      .split('--> statement-breakpoint')
      .map((statement) => db.prepare(statement.trim()))
    const record = db.prepare('INSERT INTO d1_migrations (name) VALUES (?)').bind(name)
    await db.batch([...statements, record])
  }
}
