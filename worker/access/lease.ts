/**
 * What an account has leased to one shard for one key, in micro-USD. All numbers only grow, so that
 * each side takes the larger of what it knows and what it hears: a message that is late, repeated or
 * lost changes nothing.
 */
export interface Lease {
  /** Given by the account's object. */
  readonly leasedMicroUsd: number
  /** Of that, the fees of requests that ended; by the shard's word. */
  readonly settledMicroUsd: number
  /** Of that, what the shard will not use; by the shard's word. */
  readonly returnedMicroUsd: number
}

/** What a shard says of a lease. */
export interface LeaseReport {
  readonly keyId: string
  /** Of the shard's messages about this key: only the newest one is granted anything. */
  readonly number: number
  readonly settledMicroUsd: number
  readonly returnedMicroUsd: number
}

/** A lease as the account's object keeps it. */
export interface GrantedLease extends Lease {
  /** The newest message that was heard. */
  readonly number: number
}

export const NEW_LEASE: GrantedLease = {
  leasedMicroUsd: 0,
  settledMicroUsd: 0,
  returnedMicroUsd: 0,
  number: 0,
}

/** What a lease holds of the budgets: what runs, what may still be begun, and what was not told yet. */
export function heldByLease(lease: Lease): number {
  return lease.leasedMicroUsd - lease.settledMicroUsd - lease.returnedMicroUsd
}

/** What may still be begun by a lease, as its shard sees it. */
export function leftOfLease(lease: Lease, reservedMicroUsd: number): number {
  return heldByLease(lease) - reservedMicroUsd
}

export interface HeardReport {
  readonly lease: GrantedLease
  /** Fees that were not known before. */
  readonly spentMicroUsd: number
  /** False: a newer message was heard already. */
  readonly isNewest: boolean
}

export function hearReport(lease: GrantedLease, report: LeaseReport): HeardReport {
  const settledMicroUsd = Math.max(lease.settledMicroUsd, report.settledMicroUsd)
  return {
    lease: {
      ...lease,
      settledMicroUsd,
      returnedMicroUsd: Math.max(lease.returnedMicroUsd, report.returnedMicroUsd),
      number: Math.max(lease.number, report.number),
    },
    spentMicroUsd: settledMicroUsd - lease.settledMicroUsd,
    isNewest: report.number > lease.number,
  }
}

/** A slice is for so many requests like the one that asks. */
const SLICE_REQUEST_COUNT = 64

/**
 * How much to lease for a request that needs so much and fits: enough for more of its kind, but no
 * more than every shard could have twice. `roomMicroUsd`: what the tightest budget has left; null: no limit.
 */
export function planSlice(
  neededMicroUsd: number,
  { roomMicroUsd, shards }: { readonly roomMicroUsd: number | null; readonly shards: number },
): number {
  const wantedMicroUsd = neededMicroUsd * SLICE_REQUEST_COUNT
  if (roomMicroUsd === null) return wantedMicroUsd
  return Math.max(neededMicroUsd, Math.min(wantedMicroUsd, Math.floor(roomMicroUsd / (2 * shards))))
}
