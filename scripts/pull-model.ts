import { ensureModel, modelCacheDir } from '../gpu-backend/model/pull.ts'

/** `npm run pull [-- DIR]`: fetches the default model and prints where it lies. */
const path = await ensureModel({
  cacheDir: process.argv[2] ?? modelCacheDir(process.env),
  hubUrl: process.env.HF_ENDPOINT,
  output: process.stderr,
}).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exit(1)
})
console.log(path)
