import { AccountTables } from './account-tables.ts'
import { AlertTable } from './alert-table.ts'
import { BudgetWindowTable } from './budget-window-table.ts'
import { CreditTable } from './credit-table.ts'
import { IdempotencyTable } from './idempotency-table.ts'
import { KeyDetailsTable } from './key-details-table.ts'
import { MonthTable } from './month-table.ts'
import { ResponseCacheTable } from './response-cache-table.ts'

/** The tables of an account object, by what they are about. */
export interface AccountStores {
  readonly tables: AccountTables
  readonly idempotency: IdempotencyTable
  readonly windows: BudgetWindowTable
  readonly alerts: AlertTable
  readonly keyDetails: KeyDetailsTable
  readonly credits: CreditTable
  readonly months: MonthTable
  readonly cache: ResponseCacheTable
}

/** Opens the tables; none is there before `createStores`. */
export function openStores(sql: SqlStorage): AccountStores {
  return {
    tables: new AccountTables(sql),
    idempotency: new IdempotencyTable(sql),
    windows: new BudgetWindowTable(sql),
    alerts: new AlertTable(sql),
    keyDetails: new KeyDetailsTable(sql),
    credits: new CreditTable(sql),
    months: new MonthTable(sql),
    cache: new ResponseCacheTable(sql),
  }
}

/** Makes the tables that are missing. */
export function createStores(stores: AccountStores): void {
  for (const store of Object.values(stores)) store.create()
}
