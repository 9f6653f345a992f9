import type { AdapterEntry } from '../adapters/adapter-registry.ts'
import { ADAPTER_STATES } from '../adapters/adapter-state.ts'
import type { AdapterStats } from '../adapters/create-adapters.ts'
import type { BackendContext, Services } from './services.ts'

interface Metric {
  readonly name: string
  readonly type: 'counter' | 'gauge'
  readonly help: string
  readonly samples: readonly { readonly labels?: Record<string, string>; readonly value: number }[]
}

/**
 * `GET /metrics` in Prometheus' text format. Names of vLLM where it has one for the same thing, so that
 * the Gateway API Inference Extension's endpoint picker reads this server too.
 */
export async function answerMetrics(c: BackendContext, services: Services): Promise<Response> {
  const text = (await collectMetrics(services)).map(formatMetric).join('')
  return c.body(text, 200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' })
}

async function collectMetrics(services: Services): Promise<readonly Metric[]> {
  const { engine, adapters, model, counters, now } = services
  const stats = await engine.stats()
  const adapterStats = services.adapterStats()
  const entries = adapters.list()
  const joinIds = (kept: (entry: AdapterEntry) => boolean) =>
    entries
      .filter(kept)
      .map(({ id }) => id)
      .join(',')
  return [
    gauge('vllm:num_requests_running', 'Sequences in the running batch.', stats.runningCount),
    gauge('vllm:num_requests_waiting', 'Sequences in the queue.', stats.waitingCount),
    gauge(
      'vllm:gpu_cache_usage_perc',
      'Part of the KV cache in use, 0 to 1.',
      stats.kvTotalTokens === 0 ? 0 : stats.kvUsedTokens / stats.kvTotalTokens,
    ),
    counter(
      'vllm:prompt_tokens_total',
      'Prompt tokens run or found in the cache.',
      stats.promptTokenCount,
    ),
    counter(
      'vllm:prefix_cache_queries_total',
      'Prompt tokens looked up in the prefix cache.',
      stats.prefixQueryTokenCount,
    ),
    counter(
      'vllm:prefix_cache_hits_total',
      'Prompt tokens found in the prefix cache.',
      stats.prefixHitTokenCount,
    ),
    counter(
      'vllm:num_preemptions_total',
      'Times a running request lost its memory to another.',
      stats.preemptionCount,
    ),
    counter('vllm:generation_tokens_total', 'Tokens sampled.', stats.completionTokenCount),
    {
      name: 'vllm:lora_requests_info',
      type: 'gauge',
      help: 'Adapters of requests in the engine, and of those that wait for a load; the value is the time of this report in seconds.',
      samples: [
        {
          labels: {
            max_lora: String(model.maxBatchSize),
            running_lora_adapters: joinIds(({ useCount }) => useCount > 0),
            waiting_lora_adapters: joinIds(({ waitingCount }) => waitingCount > 0),
          },
          value: now() / 1000,
        },
      ],
    },
    gauge('tallygate:kv_cache_tokens', 'Size of the KV cache in tokens.', stats.kvTotalTokens),
    gauge(
      'tallygate:kv_cached_tokens',
      'KV cache kept for later requests, free for running ones.',
      stats.kvCachedTokens,
    ),
    gauge('tallygate:loaded_adapters', 'Adapters in the engine.', stats.loadedAdapterCount),
    ...describeAdapters(entries, adapterStats),
    counter('tallygate:engine_steps_total', 'Iterations of the engine.', stats.stepCount),
    {
      name: 'tallygate:requests_total',
      type: 'counter',
      help: 'Requests that ran, by how they ended.',
      samples: byLabel('outcome', counters.ends.entries()),
    },
    {
      name: 'tallygate:errors_total',
      type: 'counter',
      help: 'Error answers, by their code.',
      samples: byLabel('code', counters.errors.entries()),
    },
  ]
}

function describeAdapters(
  entries: readonly AdapterEntry[],
  stats: AdapterStats,
): readonly Metric[] {
  const counts = new Map<string, number>(ADAPTER_STATES.map((state) => [state, 0]))
  for (const { state } of entries) counts.set(state, (counts.get(state) ?? 0) + 1)
  return [
    {
      name: 'tallygate:adapters',
      type: 'gauge',
      help: 'Registered adapters, by where they are.',
      samples: byLabel('state', counts),
    },
    {
      name: 'tallygate:adapter_transitions_total',
      type: 'counter',
      help: 'How often adapters came into each state.',
      samples: byLabel('state', stats.stateCounts),
    },
    gauge('tallygate:adapter_ram_bytes', 'Adapters in the engine, bytes.', stats.usedBytes),
    gauge('tallygate:adapter_disk_bytes', 'Uploaded and fetched files, bytes.', stats.storedBytes),
    gauge(
      'tallygate:adapter_waiting_requests',
      'Requests that wait for a load.',
      stats.waitingCount,
    ),
    counter('tallygate:adapter_loads_total', 'Loads into the engine.', stats.loadCount),
    counter(
      'tallygate:adapter_evictions_total',
      'Adapters that left the engine to make room.',
      stats.evictionCount,
    ),
    counter(
      'tallygate:adapter_hits_total',
      'Requests that found their adapter in the engine.',
      stats.hitCount,
    ),
  ]
}

function gauge(name: string, help: string, value: number): Metric {
  return { name, type: 'gauge', help, samples: [{ value }] }
}

function counter(name: string, help: string, value: number): Metric {
  return { name, type: 'counter', help, samples: [{ value }] }
}

function byLabel(label: string, entries: Iterable<readonly [string, number]>) {
  return Array.from(entries, ([name, value]) => ({ labels: { [label]: name }, value }))
}

function formatMetric({ name, type, help, samples }: Metric): string {
  const lines = samples.map(({ labels, value }) => {
    const pairs = Object.entries(labels ?? {}).map(([label, text]) => `${label}="${text}"`)
    return `${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}\n`
  })
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join('')}`
}
