import {
  type AccountRules,
  accountRulesSchema,
  type KeyRules,
  keyRulesSchema,
} from './account-settings.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'

/** Of so many keys the rules are kept in memory. */
const KEPT_KEY_COUNT = 1_000

/**
 * How an account and its keys ration requests besides what their meters hold. Where nothing is stored,
 * the defaults hold. Every method is synchronous.
 */
export class TrafficRuleTable {
  readonly #sql: SqlStorage
  #account: AccountRules | null = null
  readonly #keys = new Map<string, KeyRules>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS traffic_rules (
        scope TEXT PRIMARY KEY, rules TEXT NOT NULL
      ) WITHOUT ROWID`)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#account = null
    this.#keys.clear()
  }

  ofAccount(): AccountRules {
    this.#account ??= accountRulesSchema.parse(this.#read(ACCOUNT_SCOPE))
    return this.#account
  }

  ofKey(keyId: string): KeyRules {
    const known = this.#keys.get(keyId)
    if (known !== undefined) return known
    if (this.#keys.size >= KEPT_KEY_COUNT) this.#keys.clear()
    const rules = keyRulesSchema.parse(this.#read(keyId))
    this.#keys.set(keyId, rules)
    return rules
  }

  setForAccount(rules: AccountRules): void {
    this.#write(ACCOUNT_SCOPE, rules)
  }

  setForKey(keyId: string, rules: KeyRules): void {
    this.#write(keyId, rules)
  }

  #read(scope: string): unknown {
    const query = 'SELECT rules FROM traffic_rules WHERE scope = ?'
    const [row] = this.#sql.exec<{ rules: string }>(query, scope).toArray()
    return row === undefined ? {} : JSON.parse(row.rules)
  }

  #write(scope: string, rules: AccountRules | KeyRules): void {
    this.#sql.exec(
      'INSERT INTO traffic_rules VALUES (?1, ?2) ON CONFLICT (scope) DO UPDATE SET rules = ?2',
      scope,
      JSON.stringify(rules),
    )
    this.forget()
  }
}
