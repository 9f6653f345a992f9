import { expect, test } from 'vitest'
import { backendConfigSchema, readConfig } from '../../gpu-backend/config.ts'
import { planEngine } from '../../gpu-backend/engine-options.ts'

test('only the model must be given, and a variable set to nothing is absent', () => {
  expect(readConfig({ MODEL: 'model.gguf', BACKEND_TOKEN: '', PORT: '' })).toMatchObject({
    MODEL: 'model.gguf',
    EXECUTION_PROVIDER: 'cpu',
    HOST: '127.0.0.1',
    PORT: 8000,
  })
})

test('the default precision is the fastest of the provider', () => {
  const precisionOf = (env: Record<string, string>) =>
    planEngine(readConfig({ MODEL: 'x', ...env })).precision
  expect(precisionOf({})).toBe('int8')
  expect(precisionOf({ EXECUTION_PROVIDER: 'webgpu' })).toBe('int4')
  expect(precisionOf({ PRECISION: 'fp32' })).toBe('fp32')
})

test.each([
  ['MODEL', {}],
  ['PRECISION', { PRECISION: 'int3' }],
  ['EXECUTION_PROVIDER', { EXECUTION_PROVIDER: 'tpu' }],
  ['THREADS', { THREADS: '0' }],
  ['KV_TOKENS', { KV_TOKENS: 'many' }],
  ['MAX_BATCH', { MAX_BATCH: '1.5' }],
  ['MAX_QUEUE', { MAX_QUEUE: '-1' }],
  ['PORT', { PORT: '70000' }],
  ['BACKEND_TOKEN', { BACKEND_TOKEN: 'short' }],
])('a %s that is not valid is named, its value is not', (name, env) => {
  const read = () => readConfig(name === 'MODEL' ? env : { MODEL: 'x', ...env })
  expect(read).toThrow(new RegExp(`The variable ${name} `))
  expect(read).not.toThrow(/short/)
})

test('every variable says what it is', () => {
  for (const field of Object.values(backendConfigSchema.shape)) {
    expect(field.description).toMatch(/\.$/)
  }
})
