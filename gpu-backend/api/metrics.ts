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
  const runningAdapters = adapters.list().filter((entry) => entry.useCount > 0)
  const gauge = (name: string, help: string, value: number): Metric => ({
    name,
    type: 'gauge',
    help,
    samples: [{ value }],
  })
  const counter = (name: string, help: string, value: number): Metric => ({
    ...gauge(name, help, value),
    type: 'counter',
  })
  const byLabel = (label: string, entries: Iterable<readonly [string, number]>) =>
    Array.from(entries, ([name, value]) => ({ labels: { [label]: name }, value }))
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
      help: 'Adapters of running requests; the value is the time of this report in seconds.',
      samples: [
        {
          labels: {
            max_lora: String(model.maxBatchSize),
            running_lora_adapters: runningAdapters.map(({ id }) => id).join(','),
            waiting_lora_adapters: '',
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

function formatMetric({ name, type, help, samples }: Metric): string {
  const lines = samples.map(({ labels, value }) => {
    const pairs = Object.entries(labels ?? {}).map(([label, text]) => `${label}="${text}"`)
    return `${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}\n`
  })
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join('')}`
}
