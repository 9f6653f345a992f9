import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ensureModel, modelCacheDir } from '../gpu-backend/model/pull.ts'
import { DEFAULT_MINUTES, ENGINE_BENCH_NAMES, measureEngine } from './engine/index.ts'
import { measureQuality } from './quality.ts'

/**
 * `npm run bench -- [name …]`: prints prose, then one line of JSON with the figures of each bench. Of
 * `engine`: `--only decode,scaling` picks parts, `--minutes 60` makes all windows longer, `--write` puts the
 * table into docs/engine.md. `--threads` is for all, the peer too; one a core where it is not given.
 */

interface BenchContext {
  /** The default model, or `--model`. */
  readonly modelPath: string
  readonly threadCount: number
}

const BENCHES: Readonly<Record<string, (context: BenchContext) => Promise<object>>> = {
  quality: ({ modelPath, threadCount }) => measureQuality(modelPath, threadCount),
  engine: (context) =>
    measureEngine({
      ...context,
      cacheDir: process.env.TALLYGATE_CACHE
        ? join(process.env.TALLYGATE_CACHE, 'bench')
        : join(modelCacheDir(process.env), '..', 'bench'),
      names: partNames,
      minutes: Number(values.minutes),
      isWritten: values.write,
    }),
}

const { values, positionals } = parseArgs({
  options: {
    model: { type: 'string' },
    only: { type: 'string', default: ENGINE_BENCH_NAMES.join() },
    threads: { type: 'string', default: String(availableParallelism()) },
    minutes: { type: 'string', default: String(DEFAULT_MINUTES) },
    write: { type: 'boolean', default: false },
  },
  allowPositionals: true,
})
const partNames = values.only.split(',')
const unknownPart = partNames.find((name) => !ENGINE_BENCH_NAMES.includes(name))
if (unknownPart !== undefined || !(Number(values.minutes) > 0) || !(Number(values.threads) >= 1)) {
  console.error(
    `--only takes names of ${ENGINE_BENCH_NAMES.join(', ')}; --minutes and --threads a number above zero.`,
  )
  process.exit(1)
}
const names = positionals.length > 0 ? positionals : Object.keys(BENCHES)
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
  threadCount: Number(values.threads),
}
const figures: Record<string, object> = {}
for (const name of names) figures[name] = (await BENCHES[name]?.(context)) ?? {}
console.log(JSON.stringify(figures))
