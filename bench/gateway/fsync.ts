import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { median } from './statistics.ts'

const SAMPLE_COUNT = 100

/** What a durable write of a page costs where the gateway keeps its state: median, milliseconds. */
export async function measureFsyncMs(): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'tallygate-fsync-'))
  const file = await open(join(folder, 'page'), 'w')
  const page = Buffer.alloc(4_096, 1)
  const samplesMs: number[] = []
  for (let index = 0; index < SAMPLE_COUNT; index++) {
    await file.write(page)
    const startedAtMs = performance.now()
    await file.datasync()
    samplesMs.push(performance.now() - startedAtMs)
  }
  await file.close()
  await rm(folder, { recursive: true })
  return median(samplesMs)
}
