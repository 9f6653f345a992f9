import { expect, test } from 'vitest'
import { createSession, ExecutionProviderError } from '../../../gpu-backend/compute/session.ts'
import { OnnxGraph } from '../../../gpu-backend/model/onnx-writer.ts'

test.each(['cuda', 'webgpu'] as const)(
  '%s runs, or says in one message what is missing and what to do',
  async (executionProvider) => {
    const graph = new OnnxGraph()
    graph.node('Relu', [graph.input('x', 'float32', ['T'])], {}, 'y')
    graph.output('y', 'float32')
    const attempt = await createSession(graph.toModel(), {
      executionProvider,
      threadCount: 1,
    }).catch((error: unknown) => error)
    if (attempt instanceof Error) {
      expect(attempt).toBeInstanceOf(ExecutionProviderError)
      expect(attempt.message).toContain(`"${executionProvider}" cannot run here`)
      expect(attempt.message).toContain('set the provider to "cpu"')
    } else {
      expect(attempt).toHaveProperty('run')
    }
  },
)
