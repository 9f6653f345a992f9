import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { measureFsyncMs } from './fsync.ts'
import { startLoadGenerator } from './load.ts'
import { type Load, type MeasureOptions, measureLoad } from './measure-peers.ts'
import { ACCOUNT_COUNT, type Peers, startPeers } from './peers.ts'
import { judge, type Measurements, renderMeasurements } from './report.ts'

const DOCUMENT = join(import.meta.dirname, '../../docs/metering.md')
const BLOCK = /(<!-- gateway bench -->\n)[\s\S]*?(\n<!-- end -->)/
const LEVELS = [1, 16, 64]
const ROUND_COUNT = 3
const ROUND_MS = 3_000
const WARM_UP_MS = 2_000
const LONG_PROMPT_BYTES = 100_000

const SHORT: Load = { connectionCount: 64, isStream: false, promptSizeBytes: 40, callerCount: 1 }

export interface GatewayBenchOptions {
  /** Puts the tables into docs/metering.md. */
  readonly isWriting: boolean
  /** A tenth of the time: to see that the bench runs, not to quote. */
  readonly isQuick: boolean
}

/** Measures the gateway beside its peers, all before one mock upstream on this machine. */
export async function measureGateway({ isWriting, isQuick }: GatewayBenchOptions): Promise<object> {
  const fsyncP50Ms = await measureFsyncMs()
  console.log(`A durable write takes ${fsyncP50Ms.toFixed(2)} ms at the median.`)
  const { peers, close } = await startPeers()
  const generator = startLoadGenerator()
  try {
    const roundCount = isQuick ? 1 : ROUND_COUNT
    const options = { generator, roundCount, durationMs: isQuick ? ROUND_MS / 3 : ROUND_MS }
    for (const connectionCount of LEVELS) {
      const warmUp = { generator, roundCount: 1, durationMs: WARM_UP_MS }
      await measureLoad(peers, { ...SHORT, connectionCount }, warmUp)
    }
    const measurements = { fsyncP50Ms, ...(await measureAll(peers, options)) }
    const names = {
      direct: peers.direct.name,
      bareProxy: peers.bareProxy.name,
      tallygate: peers.tallygate.name,
      tallygateFront: peers.tallygateFront.name,
      portkey: peers.portkey.name,
    }
    const text = renderMeasurements(measurements, names)
    console.log(`\n${text}\n`)
    if (isWriting) {
      const document = await readFile(DOCUMENT, 'utf8')
      await writeFile(
        DOCUMENT,
        document.replace(BLOCK, (_, head, tail) => `${head}${text}${tail}`),
      )
    }
    return { ...measurements, verdicts: judge(measurements) }
  } finally {
    await generator.close()
    await close()
  }
}

async function measureAll(
  peers: Peers,
  options: MeasureOptions,
): Promise<Omit<Measurements, 'fsyncP50Ms'>> {
  const { direct, tallygate, portkey } = peers
  const plain = []
  for (const connectionCount of LEVELS) {
    console.log(`plain requests, ${connectionCount} connections …`)
    const figures = await measureLoad(peers, { ...SHORT, connectionCount }, options)
    plain.push({ connectionCount, figures })
  }
  const streams = []
  for (const connectionCount of LEVELS) {
    console.log(`streams, ${connectionCount} at a time …`)
    const load = { ...SHORT, connectionCount, isStream: true }
    streams.push({ connectionCount, figures: await measureLoad(peers, load, options) })
  }
  console.log('long prompts …')
  const longLoad = { ...SHORT, connectionCount: 1, promptSizeBytes: LONG_PROMPT_BYTES }
  const longFigures = await measureLoad({ direct, tallygate, portkey }, longLoad, options)
  console.log('one account and many …')
  const one = await measureLoad({ tallygate }, SHORT, options)
  const many = await measureLoad({ tallygate }, { ...SHORT, callerCount: ACCOUNT_COUNT }, options)
  return {
    plain,
    streams,
    longPrompt: { connectionCount: 1, figures: longFigures },
    accounts: { one: one.tallygate, many: many.tallygate, manyCount: ACCOUNT_COUNT },
  }
}
