import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { BackendProcess, MemorySample } from './backend-process.ts'
import type { Guest } from './churn.ts'

/** What is left when nobody asks for anything. */
export interface Rest {
  readonly backend: BackendProcess
  readonly storeDir: string
  /** TMPDIR of the backend. */
  readonly temporaryDir: string
  readonly ramBudgetBytes: number
  /** Adapters of the operator's own folder. */
  readonly owns: readonly string[]
  /** Adapters that were registered by API, and the one of the operator's whose content they are. */
  readonly guests: readonly Guest[]
  /** Of the operator's adapters. */
  readonly digests: ReadonlyMap<string, string>
  /** Of requests whose callers left. */
  readonly leftIds: readonly string[]
}

export interface Sample extends MemorySample {
  readonly openFileCount: number
}

export type Metrics = ReadonlyMap<string, number>

const PATIENCE_MS = 20_000

/** Waits until all is as it must be at rest, and measures. Throws what is not when patience is over. */
export async function checkRest(rest: Rest): Promise<{ sample: Sample; metrics: Metrics }> {
  const untilMs = Date.now() + PATIENCE_MS
  for (;;) {
    const metrics = await readMetrics(rest.backend.url)
    const leaks = [
      ...findHeld(metrics, rest.ramBudgetBytes),
      ...(await findAdapterFaults(rest, metrics)),
      ...(await findFileFaults(rest)),
      ...(await findRunning(rest)),
    ]
    if (leaks.length === 0) return { sample: await measure(rest.backend), metrics }
    if (Date.now() > untilMs) throw new Error(`not at rest: ${leaks.join('; ')}`)
    await sleep(50)
  }
}

async function readMetrics(url: string): Promise<Metrics> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(
    lines.map((line) => {
      const end = line.lastIndexOf(' ')
      return [line.slice(0, end), Number(line.slice(end + 1))]
    }),
  )
}

function findHeld(metrics: Metrics, ramBudgetBytes: number): readonly string[] {
  const faults: string[] = []
  const at = (name: string) => metrics.get(name) ?? 0
  for (const name of [
    'vllm:num_requests_running',
    'vllm:num_requests_waiting',
    'vllm:gpu_cache_usage_perc',
    'tallygate:adapter_waiting_requests',
    'tallygate:errors_total{code="internal_error"}',
  ]) {
    if (at(name) !== 0) faults.push(`${name} is ${at(name)}`)
  }
  if (at('tallygate:kv_cached_tokens') > at('tallygate:kv_cache_tokens')) faults.push('KV overflow')
  const ramBytes = at('tallygate:adapter_ram_bytes')
  if (ramBytes > ramBudgetBytes) faults.push(`adapters take ${ramBytes} of ${ramBudgetBytes} bytes`)
  return faults
}

interface Entry {
  readonly id: string
  readonly state: string
  readonly digest: string | null
  readonly requests_in_flight: number
  readonly requests_waiting: number
}

async function findAdapterFaults(rest: Rest, metrics: Metrics): Promise<readonly string[]> {
  const response = await fetch(`${rest.backend.url}/v1/adapters`)
  const { data: listed } = (await response.json()) as { data: readonly Entry[] } // of our own backend
  // What was refused at its first registration.
  const data = listed.filter(({ state, digest }) => state !== 'failed' || digest !== null)
  const faults: string[] = []
  const say = (entries: Iterable<readonly [string, string | null]>) =>
    [...entries]
      .map((entry) => entry.join(' '))
      .sort()
      .join()
  const found = say(data.map(({ id, digest }) => [id, digest]))
  const digestOf = (name: string) => rest.digests.get(name) ?? null
  const expected = say([
    ...rest.owns.map((id) => [id, digestOf(id)] as const),
    ...rest.guests.map(({ id, content }) => [id, digestOf(content)] as const),
  ])
  if (found !== expected) faults.push(`registered are ${found} instead of ${expected}`)
  for (const entry of data) {
    const isIdle = entry.requests_in_flight === 0 && entry.requests_waiting === 0
    const isSettled = entry.state === 'ready' || entry.state === 'on_disk'
    if (!isIdle || !isSettled) faults.push(JSON.stringify(entry))
  }
  const ready = data.filter(({ state }) => state === 'ready')
  const readyCount = new Set(ready.map(({ digest }) => digest)).size
  const loadedCount = metrics.get('tallygate:loaded_adapters')
  if (loadedCount !== readyCount) {
    faults.push(`${loadedCount} adapters are in the engine, and ${readyCount} are named`)
  }
  return faults
}

async function findFileFaults(rest: Rest): Promise<readonly string[]> {
  const uploads = rest.guests.filter(({ isUploaded }) => isUploaded)
  const expected: Readonly<Record<string, Iterable<string>>> = {
    [join(rest.storeDir, 'incoming')]: [],
    [join(rest.storeDir, 'content')]: new Set(
      uploads.map(({ content }) => rest.digests.get(content) ?? ''),
    ),
    [join(rest.storeDir, 'registrations')]: rest.guests.map(({ id }) => `${id}.json`),
    [rest.temporaryDir]: [],
  }
  const faults: string[] = []
  for (const [folder, names] of Object.entries(expected)) {
    const found = (await readdir(folder)).sort().join()
    const due = [...names].sort().join()
    if (found !== due) faults.push(`${folder} holds ${found || 'nothing'} instead of ${due}`)
  }
  return faults
}

async function findRunning({ backend, leftIds }: Rest): Promise<readonly string[]> {
  const faults: string[] = []
  for (const id of leftIds.slice(-20)) {
    const response = await fetch(`${backend.url}/tallygate/requests/${id}`)
    const { state } = (await response.json()) as { state?: string } // of our own backend
    if (state === 'running') faults.push(`${id} is running, and nobody waits for it`)
  }
  return faults
}

async function measure(backend: BackendProcess): Promise<Sample> {
  const openFiles = await readdir(`/proc/${backend.pid}/fd`).catch(() => [])
  return { ...(await backend.measureMemory()), openFileCount: openFiles.length }
}
