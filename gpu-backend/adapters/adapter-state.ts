/**
 * Where an adapter is on its way from far to near:
 * - `registered`: known by name; its files are not on this machine
 * - `fetching`: its files are on their way, or are being checked
 * - `on_disk`: a request that names it must wait for a load
 * - `loading`, `ready`: on its way into the engine, and there
 * - `unloading`: on its way out of the engine, or being deleted
 * - `failed`: the last try did not work; the next request that names it tries again
 */
export type AdapterState =
  | 'registered'
  | 'fetching'
  | 'on_disk'
  | 'loading'
  | 'ready'
  | 'unloading'
  | 'failed'

export const ADAPTER_STATES: readonly AdapterState[] = [
  'registered',
  'fetching',
  'on_disk',
  'loading',
  'ready',
  'unloading',
  'failed',
]

/** That an adapter came into a state. */
export interface AdapterEvent {
  readonly state: AdapterState
  readonly atMs: number
}

/** What a state follows from. Each part has one owner, so that the parts cannot contradict the state. */
export interface AdapterSituation {
  readonly isDeleting: boolean
  readonly resident: 'loading' | 'ready' | 'unloading' | null
  readonly isFetching: boolean
  readonly hasFailed: boolean
  readonly isOnDisk: boolean
}

export function findState(situation: AdapterSituation): AdapterState {
  if (situation.isDeleting) return 'unloading'
  if (situation.resident !== null) return situation.resident
  if (situation.isFetching) return 'fetching'
  if (situation.hasFailed) return 'failed'
  return situation.isOnDisk ? 'on_disk' : 'registered'
}

const MAX_EVENT_COUNT = 16

/** The history with the state at its end; the same array when it stands there already. */
export function recordState(
  history: readonly AdapterEvent[],
  state: AdapterState,
  atMs: number,
): readonly AdapterEvent[] {
  if (history.at(-1)?.state === state) return history
  return [...history, { state, atMs }].slice(-MAX_EVENT_COUNT)
}
