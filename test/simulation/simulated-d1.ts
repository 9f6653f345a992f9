import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { SQLInputValue } from 'node:sqlite'
import { MemoryDatabase } from './memory-database.ts'
import type { Network } from './network.ts'

const MIGRATIONS = join(import.meta.dirname, '../../migrations')
const SCHEMA = readdirSync(MIGRATIONS)
  .filter((name) => name.endsWith('.sql'))
  .sort()
  .map((name) => readFileSync(join(MIGRATIONS, name), 'utf8'))
  .join('\n')

/** The ledger's database itself; whoever looks on reads it directly. */
export function createLedger(): MemoryDatabase {
  const database = MemoryDatabase.take('ledger')
  database.define(SCHEMA)
  return database
}

interface Statement {
  readonly query: string
  readonly values: readonly SQLInputValue[]
}

interface Faulty {
  readonly network: Network
  /** False: every call fails. */
  readonly isUp: () => boolean
  /** Asked when a call is made; what it returns, when the call gets there: false, and it never left. */
  readonly beginCall: () => () => boolean
}

/** D1 as one caller sees it: a real SQLite at the far end of a network. */
export function connectD1(
  ledger: MemoryDatabase,
  { network, isUp, beginCall }: Faulty,
): D1Database {
  const call = <T>(execute: () => T): Promise<T> => {
    const hasLeft = beginCall()
    return network.send(() => {
      if (!hasLeft()) throw new Error('The caller is gone.')
      if (!isUp()) throw new Error('D1_ERROR: the database is down.')
      return execute()
    })
  }
  const prepare = (query: string, values: readonly SQLInputValue[] = []) => ({
    query,
    values,
    bind: (...bound: SQLInputValue[]) => prepare(query, bound),
    all: () => call(() => run(ledger, { query, values })),
    run: () => call(() => run(ledger, { query, values })),
    raw: () => call(() => run(ledger, { query, values }).results.map((row) => Object.values(row))),
    first: () => call(() => run(ledger, { query, values }).results[0] ?? null),
  })
  const database = {
    prepare,
    batch: (statements: readonly Statement[]) =>
      call(() => {
        ledger.run('BEGIN')
        try {
          const results = statements.map((statement) => run(ledger, statement))
          ledger.run('COMMIT')
          return results
        } catch (error) {
          ledger.run('ROLLBACK')
          throw error
        }
      }),
  }
  return database as unknown as D1Database // what the gateway uses of it
}

function run(ledger: MemoryDatabase, { query, values }: Statement) {
  if (/^\s*(select|with)/i.test(query)) {
    const results = ledger.prepare(query).all(...values) as Record<string, SQLInputValue>[] // rows
    return { success: true, results, meta: { changes: 0 } }
  }
  return { success: true, results: [], meta: { changes: ledger.run(query, ...values) } }
}
