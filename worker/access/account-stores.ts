import { AccountTables } from './account-tables.ts'
import { AlertTable } from './alert-table.ts'
import { BudgetWindowTable } from './budget-window-table.ts'
import { IdempotencyTable } from './idempotency-table.ts'
import { KeyDetailsTable } from './key-details-table.ts'
import { ReservationTable } from './reservation-table.ts'

/** The tables of an account object, by what they are about. */
export interface AccountStores {
  readonly tables: AccountTables
  readonly reservations: ReservationTable
  readonly idempotency: IdempotencyTable
  readonly windows: BudgetWindowTable
  readonly alerts: AlertTable
  readonly keyDetails: KeyDetailsTable
}

/** Opens the tables; none is there before `createStores`. */
export function openStores(sql: SqlStorage): AccountStores {
  return {
    tables: new AccountTables(sql),
    reservations: new ReservationTable(sql),
    idempotency: new IdempotencyTable(sql),
    windows: new BudgetWindowTable(sql),
    alerts: new AlertTable(sql),
    keyDetails: new KeyDetailsTable(sql),
  }
}

/** Makes the tables that are missing. */
export function createStores(stores: AccountStores): void {
  for (const store of Object.values(stores)) store.create()
}

/** Drops what the tables keep in memory: it may hold what a transaction that was undone has written. */
export function forgetStores(stores: AccountStores): void {
  for (const store of Object.values(stores)) store.forget()
}
