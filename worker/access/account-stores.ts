import { AccountTables } from './account-tables.ts'
import { AlertTable } from './alert-table.ts'
import { BudgetWindowTable } from './budget-window-table.ts'
import { CreditTable } from './credit-table.ts'
import { IdempotencyTable } from './idempotency-table.ts'
import { KeyDetailsTable } from './key-details-table.ts'
import { LeaseTable } from './lease-table.ts'
import { MemberTable } from './member-table.ts'
import { ModelMeterTable } from './model-meter-table.ts'
import { MonthTable } from './month-table.ts'
import type { ModelLimit } from './rate-limits.ts'
import { ReservationTable } from './reservation-table.ts'
import { ResponseCacheTable } from './response-cache-table.ts'
import { ShardLeaseTable } from './shard-lease-table.ts'
import { TrafficRuleTable } from './traffic-rule-table.ts'

interface Store {
  readonly create: () => void
  /** Present where something is kept in memory. */
  readonly forget?: () => void
}

/** The tables of an account object, by what they are about. */
export interface AccountStores {
  readonly tables: AccountTables
  readonly reservations: ReservationTable
  readonly idempotency: IdempotencyTable
  readonly windows: BudgetWindowTable
  readonly modelMeters: ModelMeterTable
  readonly members: MemberTable
  readonly alerts: AlertTable
  readonly keyDetails: KeyDetailsTable
  readonly credits: CreditTable
  readonly months: MonthTable
  readonly cache: ResponseCacheTable
  readonly rules: TrafficRuleTable
  /** What the account's object has leased to shards. */
  readonly leases: LeaseTable
  /** What a shard was leased. */
  readonly shardLeases: ShardLeaseTable
}

/** Opens the tables; none is there before `createStores`. */
export function openStores(sql: SqlStorage): AccountStores {
  const leases = new LeaseTable(sql)
  return {
    tables: new AccountTables(sql),
    reservations: new ReservationTable(sql, leases),
    idempotency: new IdempotencyTable(sql),
    windows: new BudgetWindowTable(sql),
    modelMeters: new ModelMeterTable(sql),
    members: new MemberTable(sql),
    alerts: new AlertTable(sql),
    keyDetails: new KeyDetailsTable(sql),
    credits: new CreditTable(sql),
    months: new MonthTable(sql),
    cache: new ResponseCacheTable(sql),
    rules: new TrafficRuleTable(sql),
    leases,
    shardLeases: new ShardLeaseTable(sql),
  }
}

/** Makes the tables that are missing. */
export function createStores(stores: AccountStores): void {
  for (const store of Object.values(stores)) store.create()
}

/** Drops what the tables keep in memory: it may hold what a transaction that was undone has written. */
export function forgetStores(stores: AccountStores): void {
  const all: readonly Store[] = Object.values(stores)
  for (const store of all) store.forget?.()
}

/** Sets the limits of single models in a scope; what runs already counts. */
export function setModelLimits(
  { modelMeters, reservations }: AccountStores,
  scope: string,
  { modelLimits, nowMs }: { readonly modelLimits: readonly ModelLimit[]; readonly nowMs: number },
): void {
  const heldTokenCount = (model: string) => reservations.sumModel(scope, model).reservedTokenCount
  modelMeters.replace(scope, modelLimits, { nowMs, heldTokenCount })
}
