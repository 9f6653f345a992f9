import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { ensureModel, modelCacheDir } from '../gpu-backend/model/pull.ts'
import { soak } from './engine/soak.ts'
import { measureQuality } from './quality.ts'

/** `npm run bench -- [name …]`: prints prose, then one line of JSON with the figures of each bench. */

interface BenchContext {
  /** The default model, or `--model`. */
  readonly modelPath: string
  readonly threadCount: number
  /** Of the soak. */
  readonly minutes: number
  readonly seed: number
}

const BENCHES: Readonly<Record<string, (context: BenchContext) => Promise<object>>> = {
  quality: ({ modelPath, threadCount }) => measureQuality(modelPath, threadCount),
  soak,
}

/** Not among those that run where none is named. */
const LONG: ReadonlySet<string> = new Set(['soak'])

const { values, positionals } = parseArgs({
  options: {
    model: { type: 'string' },
    minutes: { type: 'string', default: '30' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
  allowPositionals: true,
})
const names =
  positionals.length > 0 ? positionals : Object.keys(BENCHES).filter((name) => !LONG.has(name))
const unknown = names.find((name) => !(name in BENCHES))
if (unknown !== undefined) {
  console.error(`There is no bench "${unknown}"; there are: ${Object.keys(BENCHES).join(', ')}.`)
  process.exit(1)
}
const context: BenchContext = {
  modelPath:
    values.model ??
    (await ensureModel({
      cacheDir: modelCacheDir(process.env),
      hubUrl: process.env.HF_ENDPOINT,
      output: process.stderr,
    })),
  threadCount: availableParallelism(),
  minutes: Number(values.minutes),
  seed: Number(values.seed),
}
const figures: Record<string, object> = {}
for (const name of names) figures[name] = (await BENCHES[name]?.(context)) ?? {}
console.log(JSON.stringify(figures))
