import { BroadcastChannel, isMainThread } from 'node:worker_threads'
import type { MemorySample } from './backend-process.ts'

/**
 * Preloaded into a backend and its engine thread: on any message of the parent process it collects
 * garbage in both and answers with a {@link MemorySample}. The collection is the one that also gives
 * memory back to the system: V8 otherwise keeps what its young generation once had, up to hundreds of
 * megabytes after minutes of load, which in RSS looks like a leak.
 */

const channel = new BroadcastChannel('memory-probe')
channel.unref()

const collect = () => {
  globalThis.gc?.({ type: 'major', execution: 'sync', flavor: 'last-resort' })
  return process.memoryUsage().heapUsed
}

if (isMainThread) {
  process.on('message', () => {
    const busyRssBytes = process.memoryUsage.rss()
    const mainHeapBytes = collect()
    channel.onmessage = ({ data }) => {
      if (typeof data !== 'number') return
      const sample: MemorySample = {
        busyRssBytes,
        rssBytes: process.memoryUsage.rss(),
        mainHeapBytes,
        engineHeapBytes: data,
      }
      process.send?.(sample)
    }
    channel.postMessage('collect')
  })
  process.channel?.unref()
} else {
  channel.onmessage = ({ data }) => {
    if (data === 'collect') channel.postMessage(collect())
  }
}
