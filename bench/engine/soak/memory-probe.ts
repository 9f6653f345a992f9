import { BroadcastChannel, isMainThread } from 'node:worker_threads'
import type { MemorySample } from './backend-process.ts'

/**
 * Preloaded into a backend and its engine thread: on any message of the parent process it collects
 * garbage in both and answers with a {@link MemorySample}.
 */

const channel = new BroadcastChannel('memory-probe')
channel.unref()

const collect = () => {
  globalThis.gc?.()
  return process.memoryUsage().heapUsed
}

if (isMainThread) {
  process.on('message', () => {
    const mainHeapBytes = collect()
    channel.onmessage = ({ data }) => {
      if (typeof data !== 'number') return
      const sample: MemorySample = {
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
