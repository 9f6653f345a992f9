import type { AccountObject } from './access/account-object.ts'
import { nameShard } from './access/account-shards.ts'
import { FloodShield } from './access/flood-shield.ts'
import type { ResponseObject } from './access/response-object.ts'
import type { Env } from './bindings.ts'
import { createFleet, type Fleet } from './dispatch/fleet.ts'
import { createModelCatalogue, type ModelCatalogue } from './dispatch/model-catalogue.ts'
import { ShardDirectory } from './dispatch/shard-directory.ts'
import { type Config, parseConfig } from './env.ts'
import { createPriceBook, type PriceBook } from './ledger/price-book.ts'
import { readPriceList } from './ledger/price-store.ts'
import { createLog, type Log } from './log.ts'
import type { AnchorObject } from './proofs/anchor-object.ts'
import { createTelemetry, type Telemetry } from './telemetry/telemetry.ts'

/** What handlers work with. */
export interface Services {
  readonly config: Config
  readonly log: Log
  readonly telemetry: Telemetry
  readonly catalogue: ModelCatalogue
  readonly fleet: Fleet
  readonly prices: PriceBook
  readonly database: D1Database
  readonly shield: FloodShield
  readonly shards: ShardDirectory
  /** A new stub for each call: a stub must not outlive its request. Without a shard, the account's own object. */
  readonly account: (accountId: string, shard?: number) => DurableObjectStub<AccountObject>
  /** Of a kept response, by account, key and response id. */
  readonly response: (name: string) => DurableObjectStub<ResponseObject>
  readonly anchor: () => DurableObjectStub<AnchorObject>
}

/** The one object that anchors. */
const ANCHOR_NAME = 'anchor'

let created: { readonly env: object; readonly services: Services } | undefined

/** Puts the Worker's parts together, once an isolate. Throws when the configuration is wrong. */
export function createServices(env: Env): Services {
  if (created?.env === env) return created.services
  const config = parseConfig(env)
  const log = createLog()
  const services: Services = {
    config,
    log,
    telemetry: createTelemetry({
      endpoint: config.OTLP_ENDPOINT ?? null,
      headers: config.OTLP_HEADERS,
      log,
      nowMs: Date.now,
      sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    }),
    catalogue: createModelCatalogue(config.BACKENDS, log),
    fleet: createFleet(),
    prices: createPriceBook({
      fetchList: (fromMs) => readPriceList(env.DB, fromMs),
      log,
      now: Date.now,
    }),
    database: env.DB,
    shield: new FloodShield({ freeCallsPerMinute: config.FREE_CALLS_PER_MINUTE }),
    shards: new ShardDirectory(),
    account: (accountId, shard = 0) => env.ACCOUNT.getByName(nameShard(accountId, shard)),
    response: (name) => env.RESPONSE.getByName(name),
    anchor: () => env.ANCHOR.getByName(ANCHOR_NAME),
  }
  created = { env, services }
  return services
}
