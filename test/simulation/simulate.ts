import { Invariants } from './invariants.ts'
import { serveRequest } from './simulated-gateway.ts'
import { createChance, replaceGlobals } from './virtual-time.ts'
import { World } from './world.ts'

const CHAOS_MS = 90_000
const CRON_MS = 20_000
const QUIET_WITHIN_MS = 3 * 3_600_000

export interface RunSummary {
  readonly eventCount: number
  readonly recordCount: number
  readonly batchCount: number
  /** Of everything that happened, in order: equal seeds, equal digests. */
  readonly digest: number
}

/** One run: requests under faults, then calm until nothing is left to do. Throws what must never be. */
export async function simulate(seed: number): Promise<RunSummary> {
  const chance = createChance(seed)
  const world = new World(chance)
  const { time } = world
  const restore = replaceGlobals(time, chance, (input, init) =>
    world.backend.fetch(String(input), init?.signal ?? null),
  )
  try {
    await world.createAccounts(2)
    const invariants = new Invariants(world)
    const startMs = time.nowMs
    scheduleRequests(world)
    scheduleRevocation(world)
    scheduleMishaps(world)
    const beat = () => {
      world.anchor()
      time.schedule(CRON_MS, beat)
    }
    time.schedule(CRON_MS, beat)

    let eventCount = 0
    let digest = 0
    const run = async (untilMs: number) => {
      while (await time.step(untilMs)) {
        eventCount += 1
        digest = (Math.imul(digest, 31) + time.nowMs) | 0
        invariants.check()
      }
    }
    await run(startMs + CHAOS_MS)
    world.calmDown()
    do {
      if (time.nowMs > startMs + QUIET_WITHIN_MS)
        throw new Error(`It never came to rest: ${invariants.describeRest()}`)
      await run(time.nowMs + CRON_MS)
    } while (!invariants.isQuiet() || world.network.underWayCount > 0)
    invariants.checkEnd()
    const recordCount = Number(world.ledger.prepare('SELECT count(*) AS n FROM usage').get()?.n)
    world.close()
    return { eventCount, recordCount, batchCount: world.chain.anchors.length, digest }
  } finally {
    restore()
  }
}

function scheduleRequests(world: World): void {
  const { chance, time } = world
  const count = chance.between(5, 40)
  for (let index = 0; index < count; index++) {
    const key = world.keys[chance.between(0, world.keys.length - 1)]
    if (key === undefined) throw new Error('There are no keys.')
    time.schedule(chance.between(0, 60_000), () => void serveRequest(world, key).catch(() => {}))
  }
}

/** In some runs, a key is revoked in the middle of its requests. */
function scheduleRevocation(world: World): void {
  const { chance, time, keys } = world
  if (chance.isHit(0.7)) return
  const key = keys[chance.between(0, keys.length - 1)]
  if (key === undefined) throw new Error('There are no keys.')
  const atMs = chance.between(5_000, 60_000)
  time.schedule(atMs, () => world.revokeKey(key))
  for (let count = 0; count < 12; count++)
    time.schedule(atMs + chance.between(-2_000, 4_000), () => {
      serveRequest(world, key).catch(() => {})
    })
}

/** What befalls the parts themselves, until the calm. */
function scheduleMishaps(world: World): void {
  const { chance, time } = world
  const mishaps = [
    () => world.hosts[chance.between(0, world.hosts.length - 1)]?.evict(),
    () => world.revokeKey(world.keys[chance.between(0, world.keys.length - 1)]),
    () => world.dropShards(world.accounts[chance.between(0, world.accounts.length - 1)]),
    () => {
      world.isLedgerUp = !world.isLedgerUp
    },
    () => {
      world.backend.isUp = !world.backend.isUp
    },
    () => world.backend.restart(),
    () => world.killCycle(),
    () => world.anchor(),
    () => world.chain.reorganise(),
    () => world.chain.reorganise(),
    () => {
      time.skewMs = chance.between(-2_000, 2_000)
    },
  ]
  const count = chance.between(0, 30)
  for (let index = 0; index < count; index++) {
    const mishap = mishaps[chance.between(0, mishaps.length - 1)]
    if (mishap !== undefined) time.schedule(chance.between(0, CHAOS_MS), mishap)
  }
}
