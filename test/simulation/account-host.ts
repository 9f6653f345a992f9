import type { SQLInputValue } from 'node:sqlite'
import type { AccountBindings } from '../../worker/access/account-ledger-object.ts'
import { AccountObject } from '../../worker/access/account-object.ts'
import { MemoryDatabase } from './memory-database.ts'
import type { Network } from './network.ts'

/** What an event did to an object: its writes and messages count only once it has ended well. */
interface Turn {
  isRolledBack: boolean
  hasWritten: boolean
}

/** How soon the platform runs an alarm again whose object was lost. */
const ALARM_RETRY_MS = 2_000

/**
 * The platform under one account object: storage that commits when an event ends, or loses all that
 * the event wrote and said; one alarm, at least once; an instance that can vanish at any time.
 */
export class AccountHost {
  readonly name: string
  /** The object's tables, for whoever looks on. */
  readonly tables = MemoryDatabase.take('account')
  /** Counts commits that changed something. */
  version = 0
  readonly #network: Network
  readonly #createEnv: (beginCall: () => () => boolean) => AccountBindings
  #instance: AccountObject | null = null
  #generation = 0
  #turn: Turn | null = null
  #alarmAtMs: number | null = null
  #committedAlarmAtMs: number | null = null
  #alarmTimer: number | null = null
  #isAlarmRunning = false

  constructor(
    name: string,
    network: Network,
    createEnv: (beginCall: () => () => boolean) => AccountBindings,
  ) {
    this.name = name
    this.#network = network
    this.#createEnv = createEnv
  }

  /** A call from another machine. */
  call<T>(method: (object: AccountObject) => T | Promise<T>): Promise<T> {
    return this.#network.send(() => this.run(method))
  }

  /** A call that got there. Rejects when the object is lost before it has answered. */
  async run<T>(method: (object: AccountObject) => T | Promise<T>): Promise<T> {
    const object = await this.#start()
    const generation = this.#generation
    const answer = await method(object)
    const turn = this.#openTurn()
    await new Promise<void>((resolve) => this.#network.time.schedule(0, resolve)) // the output gate
    if (turn.isRolledBack || generation !== this.#generation)
      throw new Error('The object was reset.')
    return answer
  }

  /** The instance is gone; what it has committed stays. */
  evict(): void {
    this.#instance = null
    this.#generation += 1
    if (!this.#isAlarmRunning) return
    this.#isAlarmRunning = false
    this.#committedAlarmAtMs ??= this.#network.time.wallMs + ALARM_RETRY_MS
    this.#alarmAtMs = this.#committedAlarmAtMs
    this.#setTimer()
  }

  async #start(): Promise<AccountObject> {
    if (this.#instance !== null) return this.#instance
    const generation = ++this.#generation
    const requireAlive = () => {
      if (generation !== this.#generation) throw new Error('This instance is gone.')
    }
    let ready: Promise<unknown> = Promise.resolve()
    const context = {
      id: { name: this.name },
      blockConcurrencyWhile: (work: () => Promise<unknown>) => {
        ready = work()
        return ready
      },
      storage: {
        sql: {
          exec: (query: string, ...values: SQLInputValue[]) => {
            requireAlive()
            return this.#execute(query, values)
          },
        },
        transactionSync: <T>(closure: () => T): T => {
          requireAlive()
          return this.#transact(closure)
        },
        getAlarm: async () => this.#alarmAtMs,
        setAlarm: async (atMs: number) => {
          if (generation !== this.#generation) return
          this.#openTurn()
          this.#alarmAtMs = atMs
        },
      },
    }
    const env = this.#createEnv(() => {
      const turn = this.#openTurn()
      return () => !turn.isRolledBack
    })
    // The parts of the state that the object uses.
    this.#instance = new AccountObject(context as unknown as DurableObjectState, env)
    await ready
    return this.#instance
  }

  #openTurn(): Turn {
    if (this.#turn !== null) return this.#turn
    const turn: Turn = { isRolledBack: false, hasWritten: false }
    this.#turn = turn
    this.tables.run('BEGIN')
    this.#network.time.afterEvent(() => this.#endTurn(turn))
    return turn
  }

  #endTurn(turn: Turn): void {
    this.#turn = null
    if (this.#network.chance.isHit(this.#network.faults.crash)) {
      turn.isRolledBack = true
      this.tables.run('ROLLBACK')
      this.#alarmAtMs = this.#committedAlarmAtMs
      this.evict()
      return
    }
    this.tables.run('COMMIT')
    if (turn.hasWritten) this.version += 1
    if (this.#alarmAtMs === this.#committedAlarmAtMs) return
    this.#committedAlarmAtMs = this.#alarmAtMs
    this.#setTimer()
  }

  #setTimer(): void {
    const { time } = this.#network
    if (this.#alarmTimer !== null) time.cancel(this.#alarmTimer)
    this.#alarmTimer = null
    if (this.#committedAlarmAtMs === null || this.#isAlarmRunning) return
    const delayMs = this.#committedAlarmAtMs - time.wallMs
    this.#alarmTimer = time.schedule(delayMs, () => void this.#runAlarm())
  }

  async #runAlarm(): Promise<void> {
    this.#alarmTimer = null
    this.#alarmAtMs = null
    this.#committedAlarmAtMs = null
    this.#isAlarmRunning = true
    await this.#start()
    const generation = this.#generation
    try {
      await this.run((object) => object.alarm())
    } catch {
      if (generation === this.#generation)
        this.#alarmAtMs = this.#network.time.wallMs + ALARM_RETRY_MS
    }
    // Lost meanwhile: the eviction has seen to the alarm's repetition.
    if (generation !== this.#generation) return
    this.#isAlarmRunning = false
    this.#committedAlarmAtMs = this.#alarmAtMs
    this.#setTimer()
  }

  #transact<T>(closure: () => T): T {
    this.#openTurn()
    this.tables.run('SAVEPOINT closure')
    try {
      const result = closure()
      this.tables.run('RELEASE closure')
      return result
    } catch (error) {
      this.tables.run('ROLLBACK TO closure')
      this.tables.run('RELEASE closure')
      throw error
    }
  }

  #execute(query: string, values: readonly SQLInputValue[]) {
    const turn = this.#openTurn()
    if (/;\s*create/i.test(query)) {
      this.tables.define(query)
      return { toArray: () => [], one: () => null, rowsWritten: 0 }
    }
    if (/^\s*select/i.test(query)) {
      const rows = this.tables.prepare(query).all(...values)
      return { toArray: () => rows, one: () => rows[0], rowsWritten: 0 }
    }
    const rowsWritten = this.tables.run(query, ...values)
    turn.hasWritten ||= rowsWritten > 0
    return { toArray: () => [], one: () => null, rowsWritten }
  }
}
