import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import {
  type GatewayUnderTest,
  startGatewayUnderTest,
  type UsageLine,
} from './gateway-under-test.ts'
import {
  type Exchange,
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from './scripted-upstream.ts'

/** When the client leaves. */
export const MOMENTS = [
  'before the headers',
  'before the first chunk',
  'in mid-answer',
  'after the usage chunk',
  'after the end',
] as const
export type Moment = (typeof MOMENTS)[number]

/** What the upstream does from the moment on at which the client leaves. */
export const UPSTREAM_KINDS = [
  'fast',
  'slow',
  'silent',
  'dying',
  'malformed',
  'without usage',
] as const
export type UpstreamKind = (typeof UPSTREAM_KINDS)[number]

export interface Cell {
  readonly moment: Moment
  readonly upstream: UpstreamKind
  readonly isStream: boolean
  /** How the client's socket goes: closed, or reset. */
  readonly leave: 'FIN' | 'RST'
  /** Whether the upstream is our own backend, which can be asked what it produced. */
  readonly isOwn: boolean
}

/** What became of one cell, as client, upstream and ledger saw it. */
export interface CellResult {
  readonly requestId: string
  /** Seen by the client before it left; null for none. */
  readonly status: number | null
  /** How the upstream's side ended: `cancelled` by the gateway before it was through. */
  readonly upstreamEnd: 'cancelled' | 'finished' | 'died'
  /** From the client's leaving to the upstream's end. */
  readonly delayMs: number
  /** Tokens that reached the client, and that the upstream had produced at its end. */
  readonly seenTokenCount: number
  readonly producedTokenCount: number
}

const OWN_DIGEST = `0x${'ab'.repeat(32)}`
const ZERO = `0x${'0'.repeat(64)}`
const PROMPT_TOKENS = 7
const FIRST_TOKENS = 2
/** What a slow upstream still has to say, and how fast: three seconds in all. */
const LATER_TOKENS = 30
const TOKEN_INTERVAL_MS = 100

/** Every cell that can be: a usage chunk is sent in streams only, and by those that send usage. */
export function listCells(): Cell[] {
  const cells: Cell[] = []
  for (const moment of MOMENTS)
    for (const upstream of UPSTREAM_KINDS)
      for (const isStream of [true, false])
        for (const leave of ['FIN', 'RST'] as const)
          for (const isOwn of [true, false]) {
            const cell: Cell = { moment, upstream, isStream, leave, isOwn }
            if (canBe(cell)) cells.push(cell)
          }
  return cells
}

function canBe({ moment, upstream, isStream }: Cell): boolean {
  if (moment === 'after the usage chunk') return isStream && upstream !== 'without usage'
  // A body in one piece has no end before its connection ends as it should.
  if (moment === 'after the end' && !isStream) return upstream !== 'silent' && upstream !== 'dying'
  return true
}

/** The models of the upstream: requests reach the cell that `user` names. */
function createCellModels() {
  const arrivals = new Map<string, (exchange: Exchange) => void>()
  const script = (exchange: Exchange) => arrivals.get(exchange.body.user)?.(exchange)
  const models = {
    own: { script, digest: OWN_DIGEST, maxModelLength: 512 },
    foreign: { script, maxModelLength: 512 },
  }
  return { arrivals, models }
}

interface Stage {
  readonly gateway: GatewayUnderTest
  readonly upstream: ScriptedUpstream
  readonly arrivals: Map<string, (exchange: Exchange) => void>
}

/** Plays one cell: upstream and client act step by step until both are gone. */
async function playCell(cell: Cell, stage: Stage): Promise<CellResult> {
  const name = JSON.stringify(cell)
  const arrival = new Promise<Exchange>((resolve) => stage.arrivals.set(name, resolve))
  const client = await openClient(stage.gateway, {
    model: cell.isOwn ? 'own' : 'foreign',
    messages: [{ role: 'user', content: 'x' }],
    max_tokens: 64,
    stream: cell.isStream,
    user: name,
  })
  const exchange = await Promise.race([arrival, client.refused])
  const producer = createProducer(cell, exchange, stage.upstream)
  const isLast = cell.moment === 'after the end'
  producer.sayUntil(cell.moment)
  if (isLast) producer.goOn()
  await client.readUntil(findMarker(cell))
  const seen = client.seen()
  const leftAtMs = performance.now()
  client.leave(cell.leave)
  if (!isLast) producer.goOn()
  const upstreamEnd = await producer.end
  return {
    requestId: exchange.requestId,
    status: seen === '' ? null : Number(seen.split(' ')[1]),
    upstreamEnd,
    delayMs: performance.now() - leftAtMs,
    seenTokenCount: (seen.match(/tok\d+/g) ?? []).length,
    producedTokenCount: producer.producedTokenCount(),
  }
}

/** What the client has read when it leaves; empty: nothing. */
function findMarker({ moment, isStream, upstream }: Cell): string {
  if (moment === 'after the end')
    return isStream ? '[DONE]' : upstream === 'malformed' ? '"error"' : '"choices"'
  // Before its end nothing of a body goes out but blanks.
  if (!isStream) return ''
  switch (moment) {
    case 'before the headers':
      return ''
    case 'before the first chunk':
      return '"assistant"'
    case 'in mid-answer':
      return `tok${FIRST_TOKENS}`
    case 'after the usage chunk':
      return '"stop"'
  }
}

/** The upstream's side of a cell; it keeps the report that our own backend would give. */
function createProducer(cell: Cell, exchange: Exchange, upstream: ScriptedUpstream) {
  const { isStream } = cell
  const provenance = cell.isOwn ? PROVENANCE : undefined
  let producedTokenCount = 0
  let hasDied = false
  let timer: ReturnType<typeof setInterval> | null = null

  const report = (state: string) => {
    if (!cell.isOwn) return
    upstream.reports.set(exchange.requestId, {
      request_id: exchange.requestId,
      state,
      usage: usageOf(PROMPT_TOKENS, producedTokenCount),
      tallygate: state === 'running' ? null : PROVENANCE,
    })
  }
  const produce = (count: number) => {
    for (let index = 0; index < count; index++) {
      producedTokenCount += 1
      if (isStream) exchange.sendToken(`tok${producedTokenCount}`)
    }
  }
  const usage = () =>
    cell.upstream === 'without usage' ? undefined : usageOf(PROMPT_TOKENS, producedTokenCount)
  const finish = (): void => {
    if (isStream) {
      if (cell.moment === 'after the usage chunk') exchange.sendFrame('[DONE]')
      else exchange.sendEnding(usage(), provenance)
      if (cell.upstream === 'dying') die()
      else if (cell.upstream !== 'silent') exchange.res.end()
      return
    }
    const body = cell.upstream === 'malformed' ? '{"choices": [' : JSON.stringify(compose())
    exchange.res.end(cell.moment === 'in mid-answer' ? body.slice(1) : body)
  }
  const compose = () => {
    const words = Array.from({ length: producedTokenCount }, (_, index) => `tok${index + 1}`)
    const choice = { index: 0, message: { content: words.join(' ') }, finish_reason: 'stop' }
    return { choices: [choice], usage: usage(), tallygate: provenance }
  }
  const die = () => {
    hasDied = true
    exchange.res.socket?.destroySoon() // what was written still goes out
  }
  const startBody = () => {
    exchange.res.writeHead(200, { 'content-type': 'application/json' })
    exchange.res.flushHeaders()
  }

  report('running')
  const end = exchange.cancelled.then((wasCut): CellResult['upstreamEnd'] => {
    if (timer !== null) clearInterval(timer)
    report(hasDied ? 'failed' : wasCut ? 'cancelled' : 'completed')
    return hasDied ? 'died' : wasCut ? 'cancelled' : 'finished'
  })
  return {
    end,
    producedTokenCount: () => producedTokenCount,
    sayUntil: (moment: Moment) => {
      if (moment === 'before the headers') return
      if (isStream) exchange.startStream()
      else if (moment !== 'after the end') startBody()
      if (moment === 'before the first chunk') return
      produce(FIRST_TOKENS)
      if (moment === 'in mid-answer' && !isStream) exchange.res.write('{')
      if (moment === 'after the usage chunk') exchange.sendUsage(usage(), provenance)
    },
    goOn: () => {
      const isSaid = cell.moment === 'after the end' || cell.moment === 'after the usage chunk'
      if (cell.moment !== 'after the end') {
        if (cell.upstream === 'silent') return
        if (cell.upstream === 'dying') return die()
      }
      if (cell.moment === 'before the headers' && isStream) exchange.startStream()
      if (cell.upstream === 'fast') {
        if (!isSaid) produce(LATER_TOKENS)
        return finish()
      }
      if (cell.upstream === 'malformed' && isStream) exchange.sendFrame('{"broken":')
      if (cell.moment === 'after the end') return finish()
      let tickCount = 0
      timer = setInterval(() => {
        if (!isSaid) produce(1)
        tickCount += 1
        if (tickCount < LATER_TOKENS) return
        if (timer !== null) clearInterval(timer)
        finish()
      }, TOKEN_INTERVAL_MS)
    },
  }
}

const PROVENANCE = {
  model_digest: OWN_DIGEST,
  adapter_digest: ZERO,
  adapter_owner: null,
  attribution_digest: ZERO,
  contributors: [],
  spans: [],
  prompt_hash: ZERO,
  output_hash: ZERO,
}

/** A client that is a bare socket, so that it can leave in either way. */
async function openClient({ url, apiKey }: GatewayUnderTest, body: object) {
  const { hostname, port } = new URL(url)
  const socket: Socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  socket.on('error', () => {}) // a reset is what some of them are for
  const payload = JSON.stringify(body)
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: ${hostname}\r\nauthorization: Bearer ${apiKey}\r\n` +
      `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(payload)}\r\n\r\n${payload}`,
  )
  let seen = ''
  socket.setEncoding('utf8').on('data', (text: string) => {
    seen += text
  })
  const refused = once(socket, 'close').then((): never => {
    throw new Error(`The gateway closed the connection after: ${seen}`)
  })
  refused.catch(() => {}) // a client that leaves closes it too
  return {
    /** Rejects when the connection is gone. */
    refused,
    seen: () => seen,
    readUntil: async (marker: string) => {
      while (!seen.includes(marker)) await Promise.race([once(socket, 'data'), refused])
    },
    leave: (how: Cell['leave']) => {
      if (how === 'RST') socket.resetAndDestroy()
      else socket.destroy()
    },
  }
}

export interface PlayedCell {
  readonly cell: Cell
  readonly result: CellResult
  /** The request's rows in D1. */
  readonly records: readonly UsageLine[]
}

/** The same cells, neighbours far apart: upstreams that die one after the other would open the breaker. */
function spread(cells: readonly Cell[]): readonly Cell[] {
  const stride = Math.ceil(Math.sqrt(cells.length)) * 2
  const rows = Array.from({ length: stride }, (_, first) =>
    cells.filter((_, index) => index % stride === first),
  )
  return rows.flat()
}

/** Plays all cells against a gateway of their own, so many at a time. */
export async function playMatrix(laneCount: number) {
  const { arrivals, models } = createCellModels()
  const upstream = await startScriptedUpstream(models)
  const gateway = await startGatewayUnderTest([{ id: 'scripted', url: upstream.url }])
  try {
    await gateway.call('/v1/models') // from here on the gateway knows the upstream's models
    const cells = listCells()
    const played: { cell: Cell; result: CellResult }[] = []
    const rest = spread(cells).values()
    const playLane = async () => {
      for (const cell of rest) {
        played.push({ cell, result: await playCell(cell, { gateway, upstream, arrivals }) })
      }
    }
    await Promise.all(Array.from({ length: laneCount }, playLane))
    const lines = await gateway.settledUsage(played.map(({ result }) => result.requestId))
    const account = await gateway.admin('GET', `/accounts/${gateway.accountId}`)
    return {
      account,
      cells: played.map(({ cell, result }): PlayedCell => {
        const records = lines.filter(({ request_id }) => request_id === result.requestId)
        return { cell, result, records }
      }),
    }
  } finally {
    await gateway.close()
    await upstream.close()
  }
}
