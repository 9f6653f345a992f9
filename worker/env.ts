import type { z } from 'zod'
import type { AccountObject } from './access/account-object.ts'
import { configSchema } from './config-schema.ts'
import type { AnchorObject } from './proofs/anchor-object.ts'

/** What the platform hands the Worker: bindings by wrangler.toml, and variables as text. */
export interface Env {
  readonly DB: D1Database
  readonly ARCHIVE: R2Bucket
  readonly ACCOUNT: DurableObjectNamespace<AccountObject>
  readonly ANCHOR: DurableObjectNamespace<AnchorObject>
}

export type Config = Readonly<z.output<typeof configSchema>>

let parsed: { readonly env: object; readonly config: Config } | undefined

/** The Worker's variables, checked once an isolate. Throws an error that names each variable at fault. */
export function parseConfig(env: object): Config {
  if (parsed?.env === env) return parsed.config
  const result = configSchema.safeParse(env)
  if (!result.success) {
    const faults = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
    throw new Error(`Configuration: ${faults.join('; ')}`)
  }
  parsed = { env, config: Object.freeze(result.data) }
  return parsed.config
}
