import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import type { LeaseTable } from './lease-table.ts'
import { type Held, NOTHING_HELD } from './meter.ts'
import { countedModels, type Reservation } from './settlement.ts'

/**
 * The open reservations of an account object: stored, and mirrored in memory, where they are looked
 * up and added up. They are as many as requests may run at the same time. Every method is synchronous.
 */
export class ReservationTable {
  readonly #sql: SqlStorage
  readonly #leases: LeaseTable
  /** Null until they are first asked for, and after a transaction that was undone. */
  #open: Map<string, Reservation> | null = null
  /** By scope. */
  readonly #held = new Map<string, Held>()

  constructor(sql: SqlStorage, leases: LeaseTable) {
    this.#sql = sql
    this.#leases = leases
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS reservations (
        request_id TEXT PRIMARY KEY, key_id TEXT NOT NULL, reserved_micro_usd INTEGER NOT NULL,
        expires_at_ms INTEGER NOT NULL, sweep_failure_count INTEGER NOT NULL, body TEXT NOT NULL
      ) WITHOUT ROWID`)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#open = null
    this.#held.clear()
  }

  /** What the open reservations hold of a scope; of its budget, what is leased to shards too. */
  sum(scope: string): Held {
    this.#load()
    const held = this.#held.get(scope) ?? NOTHING_HELD
    const leasedMicroUsd = this.#leases.sum(scope)
    if (leasedMicroUsd === 0) return held
    return { ...held, reservedMicroUsd: held.reservedMicroUsd + leasedMicroUsd }
  }

  /** What those of them hold that name a model. Looks at all that are open. */
  sumModel(scope: string, model: string): Held {
    let held = NOTHING_HELD
    for (const reservation of this.#load().values()) {
      if (!scopesOf(reservation).includes(scope)) continue
      if (countedModels(reservation).includes(model)) held = addHeld(held, reservation, 1)
    }
    return held
  }

  find(requestId: string): Reservation | null {
    return this.#load().get(requestId) ?? null
  }

  insert(reservation: Reservation): void {
    const { requestId, keyId, worstCaseMicroUsd, expiresAtMs, sweepFailureCount, ...body } =
      reservation
    this.#sql.exec(
      'INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?)',
      requestId,
      keyId,
      worstCaseMicroUsd,
      expiresAtMs,
      sweepFailureCount,
      JSON.stringify(body),
    )
    this.#load().set(requestId, reservation)
    this.#hold(reservation, 1)
  }

  delete(requestId: string): void {
    this.#sql.exec('DELETE FROM reservations WHERE request_id = ?', requestId)
    const reservation = this.find(requestId)
    if (reservation === null) return
    this.#load().delete(requestId)
    this.#hold(reservation, -1)
  }

  /** Those that expired, the oldest first. */
  listExpired(nowMs: number, limit: number): readonly Reservation[] {
    return [...this.#load().values()]
      .filter(({ expiresAtMs }) => expiresAtMs <= nowMs)
      .sort((a, b) => a.expiresAtMs - b.expiresAtMs)
      .slice(0, limit)
  }

  /** When the next one expires; null when none is open. */
  nextExpiryMs(): number | null {
    let earliestMs: number | null = null
    for (const { expiresAtMs } of this.#load().values())
      if (earliestMs === null || expiresAtMs < earliestMs) earliestMs = expiresAtMs
    return earliestMs
  }

  /** False when there is no such reservation (any more). */
  postponeExpiry(requestId: string, expiresAtMs: number, sweepFailureCount: number): boolean {
    const reservation = this.find(requestId)
    if (reservation === null) return false
    this.#sql.exec(
      'UPDATE reservations SET expires_at_ms = ?, sweep_failure_count = ? WHERE request_id = ?',
      expiresAtMs,
      sweepFailureCount,
      requestId,
    )
    this.#load().set(requestId, { ...reservation, expiresAtMs, sweepFailureCount })
    return true
  }

  /** False when there is no such reservation (any more). */
  reroute(
    requestId: string,
    { backendId, price, model }: Pick<Reservation, 'backendId' | 'price' | 'model'>,
  ): boolean {
    const reservation = this.find(requestId)
    if (reservation === null) return false
    this.#sql.exec(
      `UPDATE reservations
       SET body = json_set(body, '$.backendId', ?, '$.price', json(?), '$.model', ?) WHERE request_id = ?`,
      backendId,
      JSON.stringify(price),
      model,
      requestId,
    )
    this.#load().set(requestId, { ...reservation, backendId, price, model })
    return true
  }

  #load(): Map<string, Reservation> {
    if (this.#open !== null) return this.#open
    const rows = this.#sql
      .exec(
        `SELECT request_id AS requestId, key_id AS keyId, reserved_micro_usd AS worstCaseMicroUsd,
           expires_at_ms AS expiresAtMs, sweep_failure_count AS sweepFailureCount, body
         FROM reservations`,
      )
      .toArray() as unknown as StoredReservation[] // as the columns are named
    this.#held.clear()
    this.#open = new Map()
    for (const { body, ...columns } of rows) {
      const reservation: Reservation = { ...columns, ...JSON.parse(body) } // the rest, by insert
      this.#open.set(reservation.requestId, reservation)
      this.#hold(reservation, 1)
    }
    return this.#open
  }

  #hold(reservation: Reservation, sign: 1 | -1): void {
    for (const scope of scopesOf(reservation)) {
      const held = addHeld(this.#held.get(scope) ?? NOTHING_HELD, reservation, sign)
      if (held.openCount === 0) this.#held.delete(scope)
      else this.#held.set(scope, held)
    }
  }
}

function scopesOf({ keyId, memberId }: Reservation): readonly string[] {
  return memberId === undefined ? [keyId, ACCOUNT_SCOPE] : [keyId, memberId, ACCOUNT_SCOPE]
}

function addHeld(
  { openCount, reservedMicroUsd, reservedTokenCount }: Held,
  { worstCaseMicroUsd, worstCaseTokenCount }: Reservation,
  sign: 1 | -1,
): Held {
  return {
    openCount: openCount + sign,
    reservedMicroUsd: reservedMicroUsd + sign * worstCaseMicroUsd,
    reservedTokenCount: reservedTokenCount + sign * worstCaseTokenCount,
  }
}

type StoredReservation = Pick<
  Reservation,
  'requestId' | 'keyId' | 'worstCaseMicroUsd' | 'expiresAtMs' | 'sweepFailureCount'
> & { readonly body: string }
