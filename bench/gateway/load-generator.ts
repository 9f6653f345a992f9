import { Agent, request } from 'node:http'
import type { LoadJob, LoadResult } from './load.ts'
import { CHUNK_COUNT, monotonicUs } from './stream-clock.ts'

/**
 * A process: takes jobs (load.ts), one JSON line each, from its input and answers each with a line.
 * As many requests are under way at any time as the job has connections; a job ends when the last
 * of them has.
 */

const CHUNK_STAMP = /"content":"(\d+) "/g

interface Timings {
  readonly latencyMs: number[]
  readonly firstTokenMs: number[]
  readonly chunkDelayMs: number[]
}

interface Call {
  readonly job: LoadJob
  readonly agent: Agent
  readonly body: Buffer
  readonly headers: Readonly<Record<string, string>>
}

/** Resolves when the answer is whole; rejects on any that is not the mock's. */
function callOnce({ job, agent, body, headers }: Call, timings: Timings): Promise<void> {
  return new Promise((resolve, reject) => {
    const startedAtUs = monotonicUs()
    let chunkCount = 0
    let answer = ''
    const outgoing = request(job.url, { method: 'POST', agent, headers }, (response) => {
      response.setEncoding('latin1')
      response.on('data', (text: string) => {
        if (!job.isStream || response.statusCode !== 200) {
          answer += text
          return
        }
        const nowUs = monotonicUs()
        for (const [, sentAtUs] of text.matchAll(CHUNK_STAMP)) {
          if (chunkCount === 0) timings.firstTokenMs.push((nowUs - startedAtUs) / 1_000)
          chunkCount += 1
          timings.chunkDelayMs.push((nowUs - Number(sentAtUs)) / 1_000)
        }
      })
      response.on('error', reject)
      response.on('end', () => {
        const isWhole = job.isStream ? chunkCount === CHUNK_COUNT : answer.includes('"choices"')
        if (response.statusCode !== 200 || !isWhole) {
          reject(new Error(`${job.url}: ${response.statusCode} ${answer.slice(0, 300)}`))
          return
        }
        timings.latencyMs.push((monotonicUs() - startedAtUs) / 1_000)
        resolve()
      })
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

async function run(job: LoadJob): Promise<LoadResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: job.connectionCount })
  const body = Buffer.from(job.body)
  const calls = job.headers.map((headers) => ({
    job,
    agent,
    body,
    headers: { ...headers, 'content-type': 'application/json', 'content-length': `${body.length}` },
  }))
  const timings: Timings = { latencyMs: [], firstTokenMs: [], chunkDelayMs: [] }
  const startedAtUs = monotonicUs()
  const endsAtUs = startedAtUs + job.durationMs * 1_000
  let callCount = 0
  const connections = Array.from({ length: job.connectionCount }, async (_, index) => {
    // Streams that begin together would send their chunks together.
    await new Promise((resolve) => setTimeout(resolve, index * job.staggerMs))
    while (monotonicUs() < endsAtUs) {
      const call = calls[callCount++ % calls.length]
      if (call !== undefined) await callOnce(call, timings)
    }
  })
  await Promise.all(connections)
  const elapsedMs = (monotonicUs() - startedAtUs) / 1_000
  agent.destroy()
  return { elapsedMs, ...timings }
}

let rest = ''
process.stdin.setEncoding('utf8')
for await (const text of process.stdin) {
  const lines = (rest + text).split('\n')
  rest = lines.pop() ?? ''
  for (const line of lines) {
    try {
      console.log(JSON.stringify(await run(JSON.parse(line) as LoadJob))) // load.ts writes it
    } catch (error) {
      console.log(JSON.stringify({ error: String(error) }))
    }
  }
}
