import type { AccountObject } from './access/account-object.ts'
import type { ResponseObject } from './access/response-object.ts'
import type { StorageBindings } from './env.ts'
import type { AnchorObject } from './proofs/anchor-object.ts'

/** What the platform hands the Worker beside its variables, by wrangler.toml. */
export interface Env extends StorageBindings {
  readonly ACCOUNT: DurableObjectNamespace<AccountObject>
  readonly RESPONSE: DurableObjectNamespace<ResponseObject>
  readonly ANCHOR: DurableObjectNamespace<AnchorObject>
}
