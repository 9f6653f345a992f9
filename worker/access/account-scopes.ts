import type { LimitSnapshot } from './account-contract.ts'
import type { AccountStores } from './account-stores.ts'
import type { KeyRow } from './account-tables.ts'
import type { AdmissionScope, Ration } from './admission.ts'
import type { LimitScope } from './budget.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import { limitsOf, type RateMeter, returnTokens, shareOf, snapshotLimits } from './meter.ts'

/** The scopes whose limits and budgets hold for a request. Every method is synchronous. */
export class AccountScopes {
  readonly #stores: AccountStores

  constructor(stores: AccountStores) {
    this.#stores = stores
  }

  /** The narrowest first; of single models the limits of those that are named. */
  list(key: KeyRow, models: readonly string[], nowMs: number): readonly AdmissionScope[] {
    const account = this.#stores.tables.findAccount()
    if (account === null) throw new Error('The account was never configured.')
    const memberId = this.#stores.members.findOwner(key.keyId)
    const member = memberId === null ? null : this.#stores.members.find(memberId)
    const scopes = [
      { scope: 'key' as const, owner: key.keyId, meter: key },
      ...(member === null
        ? []
        : [{ scope: 'member' as const, owner: member.memberId, meter: member }]),
      {
        scope: 'account' as const,
        owner: ACCOUNT_SCOPE,
        meter: shareOf(account, this.#stores.rules.ofAccount().shards),
      },
    ]
    return scopes.map((each) => ({
      ...each,
      held: this.#stores.reservations.sum(each.owner),
      windows: this.#stores.windows.list(each.owner, nowMs),
      models: this.#stores.modelMeters
        .list(each.owner)
        .filter(({ model }) => models.includes(model))
        .map((meter) => ({
          meter,
          held: this.#stores.reservations.sumModel(each.owner, meter.model),
        })),
    }))
  }

  /** Stores the levels of what an admission took from. */
  store(rations: readonly Ration[]): void {
    const { modelMeters } = this.#stores
    for (const { scope, owner, model, meter } of rations) {
      if (model !== null) modelMeters.update(owner, { ...meter, model })
      else this.#storeMeter(scope, owner, meter)
    }
  }

  /** Adds a fee to what was spent for all time, and puts unused tokens back. */
  settle(
    scopes: readonly AdmissionScope[],
    settled: { readonly feeMicroUsd: number; readonly unusedTokenCount: number },
    nowMs: number,
  ): void {
    const { modelMeters } = this.#stores
    const { feeMicroUsd, unusedTokenCount } = settled
    for (const { scope, owner, meter: before, models } of scopes) {
      const spentMicroUsd = before.spentMicroUsd + feeMicroUsd
      const meter = { ...returnTokens(before, unusedTokenCount, nowMs), spentMicroUsd }
      this.#storeMeter(scope, owner, meter)
      for (const each of models)
        modelMeters.update(owner, returnTokens(each.meter, unusedTokenCount, nowMs))
    }
  }

  #storeMeter(scope: LimitScope, owner: string, meter: RateMeter): void {
    const { tables, members } = this.#stores
    if (scope === 'key') tables.updateKeyMeter(owner, meter)
    else if (scope === 'member') members.update(owner, meter)
    else tables.updateAccountMeter({ ...meter, ...limitsOf(tables.findAccount() ?? meter) })
  }
}

/** What the `x-ratelimit-*` headers say of a request under these limits. */
export function snapshotScopes(scopes: readonly AdmissionScope[], nowMs: number): LimitSnapshot {
  const meters = scopes.flatMap(({ meter, models }) => [meter, ...models.map((each) => each.meter)])
  return snapshotLimits(meters, nowMs)
}
