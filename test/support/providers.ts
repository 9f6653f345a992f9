import {
  createSession,
  EXECUTION_PROVIDERS,
  type ExecutionProvider,
  ExecutionProviderError,
} from '../../gpu-backend/compute/session.ts'
import { OnnxGraph } from '../../gpu-backend/model/onnx-writer.ts'

/**
 * `TALLYGATE_TEST_PROVIDER=webgpu` (or `cuda`) runs all that is compared with the reference there; a
 * provider that is missing then fails. Guarantees to the last bit are the CPU's.
 */
export const TEST_PROVIDER = parseProvider(process.env.TALLYGATE_TEST_PROVIDER ?? 'cpu')

/** Those that run here. Of one that does not, a line says so. */
export async function findProviders(): Promise<readonly ExecutionProvider[]> {
  const found: ExecutionProvider[] = ['cpu']
  for (const provider of EXECUTION_PROVIDERS.filter((name) => name !== 'cpu')) {
    const reason = await tryProvider(provider)
    if (reason === null) found.push(provider)
    else if (provider === TEST_PROVIDER) throw reason
    else process.stdout.write(`not covered here: ${provider}. ${firstSentence(reason)}\n`)
  }
  return found
}

async function tryProvider(
  executionProvider: ExecutionProvider,
): Promise<ExecutionProviderError | null> {
  const graph = new OnnxGraph()
  graph.node('Relu', [graph.input('x', 'float32', ['T'])], {}, 'y')
  graph.output('y', 'float32')
  try {
    const session = await createSession(graph.toModel(), { executionProvider, threadCount: 1 })
    await session.close()
    return null
  } catch (error) {
    if (error instanceof ExecutionProviderError) return error
    throw error
  }
}

function parseProvider(name: string): ExecutionProvider {
  const provider = EXECUTION_PROVIDERS.find((known) => known === name)
  if (provider) return provider
  throw new Error(`TALLYGATE_TEST_PROVIDER is "${name}", not ${EXECUTION_PROVIDERS.join(', ')}.`)
}

function firstSentence({ message }: Error): string {
  return message.split(/(?<=\.)\s/)[0] ?? message
}
