import { keccak256 } from 'viem'
import type { Digest } from '../../protocol/digest.ts'
import type { SettleResult } from '../../worker/access/account-contract.ts'
import type { AccountBindings } from '../../worker/access/account-ledger-object.ts'
import type { AccountObject } from '../../worker/access/account-object.ts'
import {
  accountSettingsSchema,
  keySettingsSchema,
  memberSettingsSchema,
} from '../../worker/access/account-settings.ts'
import { nameShard } from '../../worker/access/account-shards.ts'
import { parseApiKey } from '../../worker/access/api-key.ts'
import { parseConfig } from '../../worker/env.ts'
import { createAccountId } from '../../worker/ids.ts'
import { runAnchorCycle } from '../../worker/proofs/anchor-cycle.ts'
import { BatchStore } from '../../worker/proofs/batch-store.ts'
import type { CyclePorts } from '../../worker/proofs/cycle-ports.ts'
import { AccountHost } from './account-host.ts'
import { calm, drawFaults, Network } from './network.ts'
import { BACKEND_URL, SimulatedBackend } from './simulated-backend.ts'
import { SimulatedChain } from './simulated-chain.ts'
import { connectD1, createLedger } from './simulated-d1.ts'
import { type Chance, VirtualTime } from './virtual-time.ts'

export const TTL_MS = 10_000

const VARS = {
  BACKENDS: JSON.stringify([{ id: 'local', url: BACKEND_URL }]),
  KEY_CHECKSUM_SECRET: 'a checksum secret for tests alone',
  RESERVATION_TTL_MS: String(TTL_MS),
  PAYEES: JSON.stringify({
    platform: `0x${'1'.repeat(40)}`,
    backend: `0x${'2'.repeat(40)}`,
    modelOwner: `0x${'3'.repeat(40)}`,
  }),
}

/** An account and its shards, each an object. */
export interface SimulatedAccount {
  readonly accountId: string
  /** Its own object first. */
  readonly hosts: readonly [AccountHost, ...AccountHost[]]
  readonly budgetMicroUsd: number
}

export interface SimulatedKey {
  readonly account: SimulatedAccount
  readonly keyId: string
  readonly keyHash: string
  readonly budgetMicroUsd: number
  /** Whose key it is; null: the account's own. */
  readonly member: SimulatedMember | null
}

interface SimulatedMember {
  readonly memberId: string
  readonly budgetMicroUsd: number
}

/** Everything that a run consists of, and what its actors said. */
export class World {
  readonly time = new VirtualTime()
  readonly chance: Chance
  readonly network: Network
  readonly ledger = createLedger()
  readonly backend: SimulatedBackend
  readonly chain: SimulatedChain
  readonly config = parseConfig(VARS)
  /** Of all accounts. */
  readonly hosts: AccountHost[] = []
  readonly accounts: SimulatedAccount[] = []
  readonly keys: SimulatedKey[] = []
  /** Keys of which an operator was told that they are revoked. */
  readonly revokedKeyIds = new Set<string>()
  /** Payloads in the archive, by keccak256. */
  readonly archive = new Map<Digest, Uint8Array>()
  /** What gateways said of each request's end: outcome and tokens. */
  readonly endings = new Map<string, Set<string>>()
  /** What they were answered. */
  readonly settlements: { readonly requestId: string; readonly result: SettleResult }[] = []
  isLedgerUp = true
  #cycle: { isDead: boolean } | null = null

  constructor(chance: Chance) {
    this.chance = chance
    this.network = new Network(this.time, chance, drawFaults(chance))
    this.backend = new SimulatedBackend(this.network)
    this.chain = new SimulatedChain(this.network)
  }

  /** Accounts with a member's two keys and one of their own each, whose budgets are too small for all that is asked. */
  async createAccounts(count: number): Promise<void> {
    for (let index = 0; index < count; index++) {
      const accountId = createAccountId()
      const shards = this.chance.isHit(0.5) ? 1 : this.chance.between(2, 4)
      const host = this.#createHost(accountId)
      const others = Array.from({ length: shards - 1 }, (_, other) =>
        this.#createHost(nameShard(accountId, other + 1)),
      )
      for (const other of others) await this.#settled(other, (object) => object.readShard())
      const budgetMicroUsd = this.chance.between(500, 4_000)
      const account: SimulatedAccount = { accountId, hosts: [host, ...others], budgetMicroUsd }
      this.accounts.push(account)
      const rates = {
        requestsPerMinute: this.chance.between(20, 200),
        tokensPerMinute: this.chance.between(2_000, 200_000),
        maxConcurrentRequests: this.chance.between(2 * shards, 12),
      }
      await this.#settled(host, (object) =>
        object.configure(accountSettingsSchema.parse({ ...rates, budgetMicroUsd, shards })),
      )
      const member = await this.#createMember(host)
      for (const name of ['first', 'second']) await this.#createKey(account, name, member)
      await this.#createKey(account, 'own', null)
    }
  }

  #createHost(name: string): AccountHost {
    const host = new AccountHost(name, this.network, (beginCall) => this.#bindStorage(beginCall))
    this.hosts.push(host)
    return host
  }

  async #createMember(host: AccountHost): Promise<SimulatedMember> {
    const budgetMicroUsd = this.chance.between(300, 3_000)
    const settings = memberSettingsSchema.parse({ name: 'member', budgetMicroUsd })
    const { memberId } = await this.#settled(host, (object) => object.createMember(settings))
    return { memberId, budgetMicroUsd }
  }

  async #createKey(
    account: SimulatedAccount,
    name: string,
    member: SimulatedMember | null,
  ): Promise<void> {
    const [host] = account.hosts
    const budgetMicroUsd = this.chance.between(300, 3_000)
    const memberId = member?.memberId ?? null
    const settings = keySettingsSchema.parse({ name, budgetMicroUsd, memberId })
    const created = await this.#settled(host, (object) => object.createKey(settings))
    if (created.outcome !== 'created') throw new Error(created.outcome)
    const parsed = await parseApiKey(created.key, VARS.KEY_CHECKSUM_SECRET)
    if (parsed.outcome !== 'key') throw new Error(parsed.outcome)
    const { keyHash } = parsed
    this.keys.push({ account, keyId: created.keyId, keyHash, budgetMicroUsd, member })
  }

  /** A call of the set-up, in which nothing goes wrong. */
  async #settled<T>(host: AccountHost, method: Parameters<typeof host.run<T>>[0]): Promise<T> {
    const { crash } = this.network.faults
    this.network.faults.crash = 0
    let isDone = false
    const answer = host.run(method).finally(() => {
      isDone = true
    })
    while (!isDone) {
      await this.time.endEvent()
      await this.time.step(this.time.nowMs)
    }
    this.network.faults.crash = crash
    return answer
  }

  #bindStorage(beginCall: () => () => boolean): AccountBindings {
    const { network, ledger } = this
    const DB = connectD1(ledger, { network, isUp: () => this.isLedgerUp, beginCall })
    const getByName = (name: string) => {
      const host = this.hosts.find((each) => each.name === name)
      if (host === undefined) throw new Error(`There is no object ${name}.`)
      return connectObject(host, { network, beginCall })
    }
    const env = { ...VARS, DB, ACCOUNT: { getByName } }
    return env as unknown as AccountBindings // the account has no use for the archive
  }

  /** What an operator does; told when it holds, or that it may not. */
  revokeKey(key: SimulatedKey | undefined): void {
    if (key === undefined) return
    const [own] = key.account.hosts
    own
      .call((object) => object.revokeKey(key.keyId))
      .then(() => this.revokedKeyIds.add(key.keyId))
      .catch(() => {})
  }

  /** From then on, one object serves the account. */
  dropShards(account: SimulatedAccount | undefined): void {
    if (account === undefined) return
    const [own] = account.hosts
    const drop = async (object: AccountObject) => {
      const description = await object.describeAccount()
      if (description !== null) await object.configure({ ...description.settings, shards: 1 })
    }
    own.call(drop).catch(() => {})
  }

  /** What the cron does; one cycle runs at a time. */
  anchor(): void {
    if (this.#cycle !== null) return
    const cycle = { isDead: false }
    this.#cycle = cycle
    void runAnchorCycle(this.#createPorts(cycle))
      .catch(() => {})
      .finally(() => {
        if (this.#cycle === cycle) this.#cycle = null
      })
  }

  /** The anchoring object is gone in mid-cycle; what it has sent may still arrive. */
  killCycle(): void {
    if (this.#cycle !== null) this.#cycle.isDead = true
    this.#cycle = null
  }

  #createPorts(cycle: { readonly isDead: boolean }): CyclePorts {
    const { network, ledger, time, chain } = this
    const isUp = () => this.isLedgerUp
    const database = connectD1(ledger, { network, isUp, beginCall: () => () => true })
    const archive = {
      put: (hash: Digest, payload: Uint8Array) =>
        network.send(() => void this.archive.set(hash, payload)),
      get: (hash: Digest) => network.send(() => this.archive.get(hash) ?? null),
    }
    const da = {
      put: (payload: Uint8Array) =>
        network.send(() => ({ outcome: 'stored', commitment: keccak256(payload) }) as const),
      get: () => network.send(() => ({ outcome: 'failed', reason: 'expired' }) as const),
    }
    return {
      store: mortal(new BatchStore(database), cycle),
      archive: mortal(archive, cycle) as unknown as CyclePorts['archive'], // what cycles use of it
      da: this.chance.isHit(0.5) ? mortal(da, cycle) : null,
      chain: mortal(chain, cycle),
      nowMs: () => time.wallMs,
      sleep: (ms) => time.pause(ms),
      limits: {
        maxAgeMs: 10_000,
        maxBytes: 4_000,
        cycleMs: 120_000,
        confirmWaitMs: 10_000,
        pendingTooLongMs: 120_000,
        daPatienceMs: 120_000,
      },
    }
  }

  /** From here on nothing goes wrong any more. */
  calmDown(): void {
    calm(this.network.faults)
    this.isLedgerUp = true
    this.backend.isUp = true
    this.time.skewMs = 0
  }

  /** Once nothing is left to do. */
  close(): void {
    for (const { tables } of [...this.hosts, { tables: this.ledger }]) tables.giveBack()
  }
}

/** An object as another one calls it: the call leaves when what its caller has written is stored. */
function connectObject(
  host: AccountHost,
  { network, beginCall }: { network: Network; beginCall: () => () => boolean },
): object {
  return new Proxy(
    {},
    {
      get:
        (_, name) =>
        (...values: unknown[]) => {
          const hasLeft = beginCall()
          return network.send(() => {
            if (!hasLeft()) throw new Error('The caller is gone.')
            return host.run((object) => {
              const method = Reflect.get(object, name) as (...values: unknown[]) => unknown
              return method.apply(object, values)
            })
          })
        },
    },
  )
}

/** A port whose owner may die: then its calls go out no more, and are never answered. */
function mortal<Port extends object>(port: Port, owner: { readonly isDead: boolean }): Port {
  return new Proxy(port, {
    get: (target, name) => {
      const method = Reflect.get(target, name, target) as (...values: unknown[]) => unknown
      return async (...values: unknown[]) => {
        if (owner.isDead) return new Promise(() => {})
        try {
          return await method.apply(target, values)
        } finally {
          if (owner.isDead) await new Promise(() => {})
        }
      }
    },
  })
}
