import { join } from 'node:path'
import { modelCacheDir } from '../gpu-backend/model/pull.ts'

/** Where peers and what they need are kept between runs: beside the models. */
export const BENCH_CACHE_FOLDER = process.env.TALLYGATE_CACHE
  ? join(process.env.TALLYGATE_CACHE, 'bench')
  : join(modelCacheDir(process.env), '..', 'bench')
