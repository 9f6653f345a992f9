import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { ensureModel, modelCacheDir } from '../gpu-backend/model/pull.ts'
import { measureGateway } from './gateway/measure-gateway.ts'
import { measureQuality } from './quality.ts'

/** `npm run bench -- [name …]`: prints prose, then one line of JSON with the figures of each bench. */

interface BenchContext {
  /** Path of the default model, or of `--model`. */
  readonly loadModel: () => Promise<string>
  readonly threadCount: number
  /** Puts figures into the documents that quote them. */
  readonly isWriting: boolean
  readonly isQuick: boolean
}

const BENCHES: Readonly<Record<string, (context: BenchContext) => Promise<object>>> = {
  gateway: measureGateway,
  quality: async ({ loadModel, threadCount }) => measureQuality(await loadModel(), threadCount),
}

const { values, positionals } = parseArgs({
  options: {
    model: { type: 'string' },
    write: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
  },
  allowPositionals: true,
})
const names = positionals.length > 0 ? positionals : Object.keys(BENCHES)
const unknown = names.find((name) => !(name in BENCHES))
if (unknown !== undefined) {
  console.error(`There is no bench "${unknown}"; there are: ${Object.keys(BENCHES).join(', ')}.`)
  process.exit(1)
}
const context: BenchContext = {
  loadModel: async () =>
    values.model ??
    (await ensureModel({
      cacheDir: modelCacheDir(process.env),
      hubUrl: process.env.HF_ENDPOINT,
      output: process.stderr,
    })),
  threadCount: availableParallelism(),
  isWriting: values.write,
  isQuick: values.quick,
}
const figures: Record<string, object> = {}
for (const name of names) figures[name] = (await BENCHES[name]?.(context)) ?? {}
console.log(JSON.stringify(figures))
