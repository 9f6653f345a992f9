import { createWriteStream } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { ensureModel, modelCacheDir } from '../gpu-backend/model/pull.ts'
import { configSchema } from '../worker/config-schema.ts'
import { startBackendProcess } from './backend-process.ts'
import { startDaStandIn } from './da-stand-in.ts'
import { deployContracts, LOCAL_DEV_KEY } from './deploy-contracts.ts'
import { claimPort } from './free-port.ts'
import { startGateway, WORKERD_PID_FILE } from './gateway.ts'
import { startLocalChain } from './local-chain.ts'
import { readSecrets, type Secrets, writeSecrets } from './secrets.ts'
import { removeStackFile, writeStackFile } from './stack-file.ts'
import type { StartOptions } from './start-options.ts'
import { lockState, type StateLock } from './state-lock.ts'

const ROOT = join(import.meta.dirname, '..')

/** How often the cron trigger fires locally, milliseconds. */
const CRON_INTERVAL_MS = 5_000

/** A batch is cut when its oldest record is this old; a local chain costs nothing, so soon. */
const LOCAL_BATCH_MAX_AGE_MS = 10_000

/** Where a running installation is reached; what `npm start -- --json` prints. */
export interface Stack {
  /** What an OpenAI SDK takes as its base URL. */
  readonly baseUrl: string
  readonly apiKey: string
  /** The first model that is served; null where the upstream lists none now. */
  readonly model: string | null
  readonly adminKey: string
  readonly dashboardUrl: string
  readonly backendUrl: string
  readonly rpcUrl: string
  readonly daUrl: string
  readonly contracts: { readonly usageAnchor: string }
}

export interface RunningStack extends Stack {
  /** Ends every process that was started; safe to call twice. */
  readonly close: () => Promise<void>
}

/**
 * The environment: `UPSTREAM_API_KEY` for `--upstream`; `ANCHOR_PRIVATE_KEY` and `ANCHOR_ADDRESS`
 * for `--rpc`; any other variable of the Worker is handed on to it.
 */
type StackEnv = Readonly<Record<string, string | undefined>>

/**
 * Starts chain, DA, backend and gateway and creates the first account, or fails with one sentence
 * and leaves nothing running.
 */
export async function startStack(
  options: StartOptions,
  say: (line: string) => void,
  env: StackEnv = {},
): Promise<RunningStack> {
  await claimPort(options.port)
  const lock = await lockState(
    options.stateDir,
    join(options.stateDir, 'gateway', WORKERD_PID_FILE),
  )
  const closers: (() => Promise<void>)[] = [lock.release]
  let closing: Promise<void> | undefined
  const close = () => {
    closing ??= closeAll(closers)
    return closing
  }
  try {
    const stack = await startParts({ options, say, env, lock, closers })
    closers.push(() => removeStackFile(options.stateDir))
    await writeStackFile(options.stateDir, {
      rpcUrl: stack.rpcUrl,
      daUrl: stack.daUrl,
      archiveUrl: stack.baseUrl.replace(/\/v1$/, '/batches'),
    })
    return { ...stack, close }
  } catch (error) {
    await close()
    throw error
  }
}

interface Parts {
  readonly options: StartOptions
  readonly say: (line: string) => void
  readonly env: StackEnv
  readonly lock: StateLock
  readonly closers: (() => Promise<void>)[]
}

async function startParts(parts: Parts): Promise<Stack> {
  const { options, closers } = parts
  const secrets = await readSecrets(options.stateDir)
  const [chain, daUrl, backend] = await settleAll([
    startChain(parts),
    startDa(parts),
    startBackend(parts, secrets),
  ])
  const logFile = createWriteStream(join(options.stateDir, 'gateway.log'), { flags: 'a' })
  closers.push(async () => void logFile.end())
  const gateway = await startGateway({
    port: options.port,
    stateDir: join(options.stateDir, 'gateway'),
    onLog: (line) => logFile.write(`${line}\n`),
    vars: {
      BATCH_MAX_AGE_MS: String(LOCAL_BATCH_MAX_AGE_MS),
      ...pickWorkerVars(parts.env),
      BACKENDS: JSON.stringify([backend]),
      KEY_CHECKSUM_SECRET: secrets.keyChecksumSecret,
      ADMIN_KEY: secrets.adminKey,
      PAYEES: JSON.stringify(DEMO_PAYEES),
      CHAIN_RPC_URL: chain.rpcUrl,
      ANCHOR_ADDRESS: chain.usageAnchor,
      ANCHOR_PRIVATE_KEY: chain.privateKey,
      DA_URL: daUrl,
    },
  })
  closers.push(gateway.close)
  const cron = setInterval(() => {
    gateway.runScheduled().catch((error: Error) => parts.say(`cron: ${error.message}`))
  }, CRON_INTERVAL_MS)
  closers.push(async () => clearInterval(cron))
  const apiKey =
    secrets.apiKey ?? (await createFirstAccount(gateway.url, options.stateDir, secrets))
  return {
    baseUrl: `${gateway.url}/v1`,
    apiKey,
    model: await findFirstModel(gateway.url, apiKey),
    adminKey: secrets.adminKey,
    dashboardUrl: `${gateway.url}/health`,
    backendUrl: backend.url,
    rpcUrl: chain.rpcUrl,
    daUrl,
    contracts: { usageAnchor: chain.usageAnchor },
  }
}

function pickWorkerVars(env: StackEnv): Record<string, string> {
  return Object.fromEntries(
    Object.keys(configSchema.shape).flatMap((name) => {
      const value = env[name]
      return value === undefined ? [] : [[name, value]]
    }),
  )
}

/** Addresses that nobody holds a key of: a local installation pays nobody. */
const DEMO_PAYEES = {
  platform: '0x00000000000000000000000000000000000a11ce',
  backend: '0x0000000000000000000000000000000000000b0b',
  modelOwner: '0x0000000000000000000000000000000000000ca7',
}

async function startChain({ options, env, lock, closers, say }: Parts) {
  const rpcUrl = options.rpcUrl ?? (await startOwnChain())
  const privateKey = env.ANCHOR_PRIVATE_KEY ?? LOCAL_DEV_KEY
  const contracts = await deployContracts({
    rpcUrl,
    privateKey,
    stateDir: options.stateDir,
    usageAnchor: env.ANCHOR_ADDRESS ?? null,
  })
  return { rpcUrl, privateKey, usageAnchor: contracts.usageAnchor }

  async function startOwnChain(): Promise<string> {
    say('Starting a local chain …')
    const chain = await startLocalChain({
      port: await claimPort(0),
      stateDir: join(options.stateDir, 'chain'),
    })
    closers.push(chain.close)
    await lock.addChild(chain.pid)
    return chain.rpcUrl
  }
}

async function startDa({ options, closers, say }: Parts): Promise<string> {
  if (options.daUrl !== null) return options.daUrl
  say('Starting a local stand-in for the EigenDA proxy …')
  const da = await startDaStandIn({
    port: await claimPort(0),
    stateDir: join(options.stateDir, 'da'),
  })
  closers.push(da.close)
  return da.url
}

async function startBackend({ options, env, lock, closers, say }: Parts, secrets: Secrets) {
  if (options.upstreamUrl !== null) {
    const url = options.upstreamUrl.replace(/\/v1$/, '')
    return { id: 'upstream', url, ...(env.UPSTREAM_API_KEY && { token: env.UPSTREAM_API_KEY }) }
  }
  const model =
    options.model ??
    (await ensureModel({
      cacheDir: modelCacheDir(env),
      hubUrl: env.HF_ENDPOINT,
      output: process.stderr,
    }))
  say(`Loading ${model} (${options.precision}) …`)
  const adaptersDir =
    options.adaptersDir ?? join(options.model === null ? ROOT : options.stateDir, 'adapters')
  await mkdir(adaptersDir, { recursive: true })
  const backend = await startBackendProcess({
    env: {
      MODEL: model,
      PRECISION: options.precision,
      BACKEND_TOKEN: secrets.backendToken,
      ADAPTERS_DIR: adaptersDir,
      DATANETS_DIR: join(ROOT, 'datanets'),
    },
    onSpawn: lock.addChild,
    onDeath: (reason) => say(`The backend died (${reason}).`),
  })
  closers.push(backend.stop)
  return { id: 'local', url: backend.url, token: secrets.backendToken }
}

async function createFirstAccount(
  gatewayUrl: string,
  stateDir: string,
  secrets: Secrets,
): Promise<string> {
  const response = await fetch(`${gatewayUrl}/admin/v1/accounts`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${secrets.adminKey}`,
      'content-type': 'application/json',
    },
    body: JSON.stringify({ name: 'first account' }),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`The first account could not be created: ${text}`)
  const apiKey: unknown = JSON.parse(text).api_key
  if (typeof apiKey !== 'string') throw new Error(`The admin API gave no key: ${text}`)
  await writeSecrets(stateDir, { ...secrets, apiKey })
  return apiKey
}

async function findFirstModel(gatewayUrl: string, apiKey: string): Promise<string | null> {
  const response = await fetch(`${gatewayUrl}/v1/models`, {
    headers: { authorization: `Bearer ${apiKey}` },
  })
  if (!response.ok) return null
  const list = (await response.json()) as { data: { id: string }[] } // the gateway's own answer
  return list.data[0]?.id ?? null
}

/** Like Promise.all, but waits for all to end, so that what did start can be closed. */
async function settleAll<A, B, C>(
  promises: readonly [Promise<A>, Promise<B>, Promise<C>],
): Promise<[A, B, C]> {
  await Promise.allSettled(promises)
  return Promise.all(promises)
}

async function closeAll(closers: (() => Promise<void>)[]): Promise<void> {
  for (const close of closers.reverse()) await close()
}
