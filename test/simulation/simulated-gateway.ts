import { CURRENT_SPLIT_VERSION } from '../../protocol/fee-split.ts'
import type { Settlement } from '../../worker/access/account-contract.ts'
import { priceUsage } from '../../worker/access/pricing.ts'
import { createAccountClient } from '../../worker/dispatch/account-client.ts'
import type { Evidence, RelayEnding } from '../../worker/dispatch/meter-ending.ts'
import type { RelayJob } from '../../worker/dispatch/relay-job.ts'
import { settleRelay } from '../../worker/dispatch/settle-relay.ts'
import { ApiError } from '../../worker/errors.ts'
import { createRequestId } from '../../worker/ids.ts'
import { BACKEND_URL } from './simulated-backend.ts'
import { type SimulatedKey, TTL_MS, type World } from './world.ts'

/**
 * One request from admission to settlement, with the gateway's own code for both; what lies between
 * is played: the backend works, the client may leave, and the gateway may vanish at any time.
 */
export async function serveRequest(world: World, key: SimulatedKey): Promise<void> {
  const { time, chance, backend } = world
  const requestId = createRequestId()
  const { hosts } = key.account
  const [own] = hosts
  const owner = { isDead: false }
  const never = new Promise<never>(() => {})
  const call = async <T>(work: () => Promise<T>): Promise<T> => {
    if (owner.isDead) return never
    const result = await work()
    return owner.isDead ? never : result
  }
  const account = createAccountClient({
    createStub: (shard) => {
      const host = hosts[shard] ?? own
      return {
        admitShare: (request) => call(() => host.call((object) => object.admitShare(request))),
        admit: (request) => call(() => host.call((object) => object.admit(request))),
        renew: (id) => call(() => host.call((object) => object.renew(id))),
        reroute: (id, to) => call(() => host.call((object) => object.reroute(id, to))),
        settle: (settlement) =>
          call(async () => {
            noteEnding(world, settlement)
            const result = await host.call((object) => object.settle(settlement))
            world.settlements.push({ requestId: settlement.requestId, result })
            return result
          }),
      }
    },
    shard: chance.between(0, hosts.length - 1),
    noteShards: () => {},
    renewEveryMs: TTL_MS / 3,
    log: () => {},
  })
  if (chance.isHit(0.15)) {
    time.schedule(chance.between(0, 15_000), () => {
      owner.isDead = true
      account.abandon()
    })
  }

  const price = world.config.PRICE
  const promptTokens = chance.between(1, 300)
  const completionTokens = chance.between(1, 400)
  const dear = {
    ...price,
    promptMicroUsdPerMillion: 1_000_000,
    completionMicroUsdPerMillion: 1_500_000,
  }
  const { outcome } = await account.admit({
    requestId,
    keyHash: key.keyHash,
    endpoint: 'chat.completions',
    model: 'simulated',
    price: dear,
    splitVersion: CURRENT_SPLIT_VERSION,
    worstCaseMicroUsd: priceUsage(dear, { promptTokens, cachedTokens: 0, completionTokens }),
    worstCaseTokenCount: promptTokens + completionTokens,
    backendId: 'local',
  })
  if (outcome !== 'admitted') return

  // Now and then a backend works beyond what was agreed.
  const askedFor = chance.isHit(0.05) ? 2 * completionTokens : completionTokens
  const used = chance.between(1, askedFor)
  const work = backend.generate(requestId, promptTokens, used).then(
    (state) => (state === 'completed' ? 'whole' : 'failed'),
    () => 'failed' as const,
  )
  const leaving = chance.isHit(0.3)
    ? time.pause(chance.between(0, 20_000)).then(() => 'client_left' as const)
    : never
  const how = await call(() => Promise.race([work, leaving]))
  if (how === 'client_left')
    void world.network.send(() => backend.cancel(requestId)).catch(() => {})

  const usage = backend.usageOf(requestId)
  const evidence: Evidence = {
    usage: how === 'whole' && chance.isHit(0.9) ? usage : null,
    provenance: null,
    tokenCount: chance.between(0, usage?.completion_tokens ?? 0),
    estimatedPromptTokens: promptTokens,
  }
  const ending: RelayEnding =
    how === 'failed' ? { how, error: new ApiError('upstream_error') } : { how }
  const digest = chance.isHit(0.8) ? { digest: `0x${'a'.repeat(64)}` } : {}
  const target = {
    backendId: 'local',
    model: { id: 'simulated', ...digest },
    modelDigest: null,
    adapterDigest: null,
  }
  const job = {
    requestId,
    accountId: key.account.accountId,
    startedAtMs: Date.now(),
    route: {
      current: () => ({ target, backend: { id: 'local', url: BACKEND_URL } }),
      end: () => {},
    },
    account,
    log: () => {},
  }
  await settleRelay(job as unknown as RelayJob, ending, evidence) // what settling reads of a job
}

/** As the record of it must be: a backend that failed before its first token is owed nothing. */
function noteEnding(world: World, settlement: Settlement): void {
  const { requestId, outcome, promptTokens, completionTokens } = settlement
  const isOwed = outcome !== 'upstream_failed' || completionTokens > 0
  const text = isOwed ? `${outcome} ${promptTokens}+${completionTokens}` : `${outcome} 0+0`
  world.endings.set(requestId, (world.endings.get(requestId) ?? new Set()).add(text))
}
