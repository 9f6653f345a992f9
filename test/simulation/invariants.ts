import type { DatabaseSync } from 'node:sqlite'
import { decodeBatchPayload } from '../../protocol/batch-payload.ts'
import { checkSplit, SPLIT_RULES } from '../../protocol/fee-split.ts'
import type { Credit } from '../../protocol/usage-leaf.ts'
import type { AccountHost } from './account-host.ts'
import type { SimulatedAccount, World } from './world.ts'

/** A settled request, wherever its record is. */
interface Entry {
  readonly requestId: string
  readonly accountId: string
  readonly keyId: string
  readonly outcome: string
  readonly promptTokens: number
  readonly completionTokens: number
  readonly feeMicroUsd: number
  readonly splitVersion: number
  readonly credits: readonly Credit[]
}

type StoredEntry = Omit<Entry, 'credits'> & { readonly credits: string }

interface Held {
  readonly requestId: string
  readonly keyId: string
  readonly reservedMicroUsd: number
  readonly expiresAtMs: number
}

interface Granted {
  readonly keyId: string
  readonly leased: number
  readonly settled: number
  readonly returned: number
}

/** A reservation may be this long over its term: alarms repeat, sweeps ask a few at a time. */
const SWEEP_WITHIN_MS = 90_000

/** Looks at a world between two events, and names the first thing that must never be. */
export class Invariants {
  readonly #world: World
  readonly #versions = new Map<AccountHost, number>()
  /** Every request that was ever reserved, with its account. */
  readonly #reserved = new Map<string, string>()
  /** Every record ever seen, as it was first seen. */
  readonly #entries = new Map<string, string>()
  readonly #queued = new Map<string, Entry | null>()
  readonly #written = new Map<string, Entry>()

  constructor(world: World) {
    this.#world = world
  }

  /** After each event: of the accounts that have changed. */
  check(): void {
    for (const account of this.#world.accounts) {
      const changed = account.hosts.filter((host) => this.#versions.get(host) !== host.version)
      for (const host of changed) this.#versions.set(host, host.version)
      if (changed.length > 0) this.#checkAccount(account)
    }
  }

  #checkAccount(account: SimulatedAccount): void {
    const { accountId, hosts } = account
    const open = hosts.flatMap((host) => select<Held>(host.tables, OPEN))
    for (const { requestId, keyId } of open) {
      const isNew = !this.#reserved.has(requestId)
      this.#reserved.set(requestId, accountId)
      require(!isNew || !this.#world.revokedKeyIds.has(keyId), () =>
        `${requestId} was admitted by ${keyId}, which is revoked`)
    }
    const entries = this.#listEntries(account)
    this.#checkLeases(account)

    for (const entry of entries.values()) this.#checkEntry(entry)
    const openIds = new Set(open.map((row) => row.requestId))
    for (const { requestId, expiresAtMs } of open) {
      const overdueMs = this.#world.time.wallMs - expiresAtMs
      require(!entries.has(requestId), () => `${requestId} is settled and reserved`)
      require(overdueMs < SWEEP_WITHIN_MS, () => `${requestId} is ${overdueMs} ms over its term`)
    }
    for (const [requestId, owner] of this.#reserved) {
      if (owner !== accountId) continue
      require(entries.has(requestId) || openIds.has(requestId), () => `${requestId} is lost`)
    }
    const settled = [...entries.values()]
    const costOf = (isCounted: (row: { readonly keyId: string }) => boolean) =>
      settled.reduce((sum, row) => sum + (isCounted(row) ? row.feeMicroUsd : 0), 0) +
      open.reduce((sum, row) => sum + (isCounted(row) ? row.reservedMicroUsd : 0), 0)
    const cost = costOf(() => true)
    const budget = account.budgetMicroUsd
    require(cost <= budget, () => `the account's ${cost} exceed its budget of ${budget}`)
    for (const { keyId, budgetMicroUsd } of this.#world.keys) {
      const keyCost = costOf((row) => row.keyId === keyId)
      require(keyCost <= budgetMicroUsd, () =>
        `the key's ${keyCost} exceed its budget of ${budgetMicroUsd}`)
    }
    for (const [member, keys] of Map.groupBy(this.#world.keys, (key) => key.member)) {
      const keyIds = keys.map(({ keyId }) => keyId)
      const memberCost = costOf((row) => keyIds.includes(row.keyId))
      require(member === null || memberCost <= member.budgetMicroUsd, () =>
        `the member's ${memberCost} exceed its budget of ${member?.budgetMicroUsd}`)
    }
  }

  /** What the account's object counts as spent and held covers all that its shards may do. */
  #checkLeases({ hosts: [own, ...shards], budgetMicroUsd }: SimulatedAccount): void {
    const spentMicroUsd = count(own.tables, 'SELECT spent_micro_usd AS n FROM account') ?? 0
    const held = (count(own.tables, HELD) ?? 0) + (count(own.tables, LEASED) ?? 0)
    require(spentMicroUsd + held <= budgetMicroUsd, () =>
      `${spentMicroUsd} spent and ${held} held exceed the budget of ${budgetMicroUsd}`)
    for (const [index, { tables }] of shards.entries()) {
      const granted = select<Granted>(own.tables, GRANTED, index + 1)
      for (const { keyId, leased, settled, returned } of select<Granted>(tables, SHARE)) {
        const known = granted.find((row) => row.keyId === keyId)
        require((known?.leased ?? 0) >= leased, () =>
          `shard ${index + 1} has ${leased} of ${keyId}`)
        require((known?.settled ?? 0) <= settled, () =>
          `more of ${keyId} is spent than was settled`)
        require((known?.returned ?? 0) <= returned, () =>
          `more of ${keyId} is back than was returned`)
        const rest = leased - settled - returned
        const reserved = select<Held>(tables, OPEN)
          .filter((row) => row.keyId === keyId)
          .reduce((sum, row) => sum + row.reservedMicroUsd, 0)
        require(reserved <= rest, () => `${reserved} are reserved of a lease of ${rest}`)
      }
    }
  }

  /** What is in D1, on its way there, or both: then it must be the same. */
  #listEntries({ accountId, hosts }: SimulatedAccount): Map<string, Entry> {
    const entries = new Map<string, Entry>()
    for (const entry of this.#listLedger(accountId)) entries.set(entry.requestId, entry)
    const seen = new Set<string>()
    const outboxes = hosts.flatMap((host) =>
      select<{ entry: string }>(host.tables, 'SELECT entry FROM outbox'),
    )
    for (const row of outboxes) {
      const entry = this.#parseQueued(row.entry)
      if (entry === null) continue
      const { requestId } = entry
      require(!seen.has(requestId), () => `${requestId} is in the outbox twice`)
      seen.add(requestId)
      const written = entries.get(requestId)
      require(written === undefined || summarise(written) === summarise(entry), () =>
        `${requestId} is one thing in D1 and another in the outbox`)
      entries.set(requestId, entry)
    }
    return entries
  }

  /** Null: it mirrors a key. */
  #parseQueued(text: string): Entry | null {
    const known = this.#queued.get(text)
    if (known !== undefined) return known
    const queued = JSON.parse(text) as { kind: string; record: Entry } // by appendOutbox
    const entry = queued.kind === 'usage' ? queued.record : null
    this.#queued.set(text, entry)
    return entry
  }

  #listLedger(accountId: string): readonly Entry[] {
    return select<StoredEntry>(this.#world.ledger, LEDGER, accountId).map((row) => {
      const known = this.#written.get(row.requestId)
      if (known !== undefined && summarise(known) === summarise(row)) return known
      const entry = { ...row, credits: JSON.parse(row.credits) as Credit[] } // by drizzle
      this.#written.set(row.requestId, entry)
      return entry
    })
  }

  #checkEntry(entry: Entry): void {
    const { requestId, feeMicroUsd, splitVersion, credits } = entry
    const text = summarise(entry)
    const known = this.#entries.get(requestId)
    require(known === undefined || known === text, () => `${requestId} was ${known}, is ${text}`)
    if (known !== undefined) return
    this.#entries.set(requestId, text)
    const owner = this.#reserved.get(requestId)
    require(owner === entry.accountId, () => `${requestId} was not reserved by ${entry.accountId}`)
    this.#checkEvidence(entry)
    const rule = SPLIT_RULES[splitVersion]
    if (rule === undefined) throw new Error(`There is no split rule ${splitVersion}.`)
    const check = checkSplit(credits, feeMicroUsd, rule)
    require(check.outcome === 'ok', () => `${requestId}: ${JSON.stringify(check)}`)
    const paid = credits.reduce((sum, credit) => sum + credit.amountMicroUsd, 0)
    require(paid === feeMicroUsd, () => `${requestId}: ${paid} of ${feeMicroUsd} are paid out`)
  }

  /** Nobody is billed what nobody said; and nothing is given away that somebody has counted. */
  #checkEvidence({ requestId, outcome, promptTokens, completionTokens }: Entry): void {
    const { endings, backend } = this.#world
    const tokens = `${promptTokens}+${completionTokens}` as const
    const answers = backend.answers.get(requestId) ?? []
    const isFounded =
      outcome === 'swept'
        ? answers.includes(tokens) ||
          (tokens === '0+0' &&
            (answers.includes('unknown') ||
              answers.some((answer) => answer.endsWith('+0')) ||
              answers.filter((answer) => answer === 'unreachable').length >= 10))
        : endings.get(requestId)?.has(`${outcome} ${tokens}`)
    require(isFounded === true, () => `${requestId}: ${outcome} ${tokens}, answers: ${answers}`)
  }

  /** Whether nothing is left to do. */
  isQuiet(): boolean {
    const { hosts, ledger } = this.#world
    return (
      hosts.every((host) => count(host.tables, WORK_LEFT) === 0) && count(ledger, UNANCHORED) === 0
    )
  }

  /** What is left to do, for whoever looks for the fault. */
  describeRest(): string {
    const { hosts, ledger, chain } = this.#world
    return JSON.stringify({
      open: hosts.flatMap((host) => select(host.tables, OPEN)),
      outbox: hosts.flatMap((host) => select(host.tables, 'SELECT sequence FROM outbox')),
      batches: select(ledger, 'SELECT id, state, last_error FROM batches'),
      anchorCount: chain.anchors.length,
    })
  }

  /** When nothing is left to do. */
  checkEnd(): void {
    const { accounts, settlements, ledger, keys } = this.#world
    const rows = accounts.flatMap(({ accountId }) => this.#listLedger(accountId))
    const fees = new Map(rows.map((row) => [row.requestId, row.feeMicroUsd]))
    require(rows.length === this.#reserved.size, () => `${rows.length} of ${this.#reserved.size}`)

    const settledIds = new Set<string>()
    for (const { requestId, result } of settlements) {
      const fee = result.outcome === 'unknown_request' ? undefined : result.feeMicroUsd
      require(fee === fees.get(requestId), () => `${requestId}: ${fee} was said to be its fee`)
      if (result.outcome !== 'settled') continue
      require(!settledIds.has(requestId), () => `${requestId} was settled twice`)
      settledIds.add(requestId)
    }
    for (const { accountId, hosts } of accounts) {
      const spent = count(hosts[0].tables, 'SELECT spent_micro_usd AS n FROM account')
      const billed = this.#listLedger(accountId).reduce((sum, row) => sum + row.feeMicroUsd, 0)
      require(spent === billed, () => `the account has ${spent} spent, D1 has ${billed}`)
    }
    const mirrorCount = count(ledger, 'SELECT count(*) AS n FROM api_keys')
    require(mirrorCount === keys.length, () => `${mirrorCount} keys are mirrored`)
    this.#checkChain(rows)
  }

  #checkChain(rows: readonly Entry[]): void {
    const { chain, archive } = this.#world
    const anchored = new Map<string, number>()
    for (const { transaction } of chain.anchors) {
      const payload = archive.get(transaction.payloadHash)
      if (payload === undefined) throw new Error(`Batch ${transaction.batchId} is not archived.`)
      const decoded = decodeBatchPayload(payload)
      if (decoded.outcome === 'malformed') throw new Error(decoded.reason)
      for (const { leaf } of decoded.entries)
        anchored.set(leaf.requestId, (anchored.get(leaf.requestId) ?? 0) + 1)
    }
    for (const { requestId, promptTokens, completionTokens } of rows) {
      const expected = promptTokens + completionTokens > 0 ? 1 : 0
      const times = anchored.get(requestId) ?? 0
      require(times === expected, () => `${requestId} is on chain ${times} times, not ${expected}`)
    }
  }
}

const LEASED = `
  SELECT coalesce(sum(leased_micro_usd - settled_micro_usd - returned_micro_usd), 0) AS n FROM leases`

const HELD = 'SELECT coalesce(sum(reserved_micro_usd), 0) AS n FROM reservations'

const WORK_LEFT = `
  SELECT (SELECT count(*) FROM reservations) + (SELECT count(*) FROM outbox) + (${LEASED}) AS n`

/** A lease, as the account's object knows it, … */
const GRANTED = `
  SELECT key_id AS keyId, leased_micro_usd AS leased, settled_micro_usd AS settled,
    returned_micro_usd AS returned FROM leases WHERE shard = ?`

/** … and as its shard does. */
const SHARE = `
  SELECT key_id AS keyId, leased_micro_usd AS leased, coalesce(spent_micro_usd, 0) AS settled,
    returned_micro_usd AS returned FROM shard_leases LEFT JOIN keys USING (key_id)`

const UNANCHORED = `
  SELECT (SELECT count(*) FROM usage WHERE batch_id IS NULL AND prompt_tokens + completion_tokens > 0)
    + (SELECT count(*) FROM batches WHERE state NOT IN ('confirmed', 'final')) AS n`

const OPEN = `
  SELECT request_id AS requestId, key_id AS keyId, reserved_micro_usd AS reservedMicroUsd,
    expires_at_ms AS expiresAtMs FROM reservations`

const LEDGER = `
  SELECT request_id AS requestId, account_id AS accountId, key_id AS keyId, outcome,
    prompt_tokens AS promptTokens, completion_tokens AS completionTokens,
    fee_micro_usd AS feeMicroUsd, split_version AS splitVersion, credits
  FROM usage WHERE account_id = ?`

/** The query must name its columns as `Row` names its fields. */
function select<Row>(database: DatabaseSync, query: string, ...values: (string | number)[]): Row[] {
  return database.prepare(query).all(...values) as Row[]
}

function count(database: DatabaseSync, query: string): number | undefined {
  return select<{ n: number }>(database, query)[0]?.n
}

function summarise(entry: Omit<Entry, 'credits'>): string {
  return `${entry.outcome} ${entry.promptTokens}+${entry.completionTokens} ${entry.feeMicroUsd}`
}

function require(holds: boolean, describe: () => string): void {
  if (!holds) throw new Error(describe())
}
