import assert from 'node:assert/strict'
import ort from 'onnxruntime-node'
import type { OnnxModel } from '../model/onnx-writer.ts'
import { buildOverflowProbe, EXACT_PRODUCT, PROBE_INPUTS } from './integer-products.ts'

/**
 * ONNX Runtime's own builds send usage data to Microsoft and leave files in the temporary folder,
 * unless this stands in the environment of the process when the first session is made.
 */
// biome-ignore lint/style/noProcessEnv: there is no other way to tell the library
process.env.ORT_DISABLE_TELEMETRY = '1'

export const EXECUTION_PROVIDERS = ['cpu', 'webgpu', 'cuda'] as const

/** Where ONNX Runtime runs the graph. */
export type ExecutionProvider = (typeof EXECUTION_PROVIDERS)[number]

export interface SessionOptions {
  readonly executionProvider: ExecutionProvider
  /** CPU threads of one run, this one included. */
  readonly threadCount: number
}

/** What a run takes and gives; `Uint8Array` is bool. The data is not copied: leave it alone during a run. */
export interface Tensor {
  readonly data: Float32Array | BigInt64Array | Uint8Array | Int8Array
  readonly dims: readonly number[]
}

/** Memory of the device, which only runs read and write. */
export interface DeviceTensor {
  readonly dims: readonly number[]
}

export interface DeviceMemory {
  /** By output. */
  readonly tensors: ReadonlyMap<string, DeviceTensor>
  /** No run may name a tensor any more. */
  readonly free: () => Promise<void>
}

export type Feeds = Readonly<Record<string, Tensor | DeviceTensor>>

/** Outputs by name that are written into memory of the device, which may be fed to the same run. */
export type DeviceOutputs = Readonly<Record<string, DeviceTensor>>

export interface Session {
  /**
   * Runs the graph; it blocks the thread until it is done. Every input must be fed. Gives the
   * outputs that are asked for, in memory of their own.
   */
  readonly run: <Name extends string, Integers extends string = never>(
    feeds: Feeds,
    outputs: readonly Name[],
    more?: { readonly int8Outputs?: readonly Integers[]; readonly deviceOutputs?: DeviceOutputs },
  ) => Promise<Record<Name, Float32Array> & Record<Integers, Int8Array>>
  readonly close: () => Promise<void>
}

/** The asked execution provider cannot run here; the message says what to do. */
export class ExecutionProviderError extends Error {
  constructor(message: string, options: ErrorOptions) {
    super(message, options)
    this.name = 'ExecutionProviderError'
  }
}

/**
 * Loads a model into ONNX Runtime, which keeps its own copy of the weights. Rejects with
 * {@link ExecutionProviderError} where the provider is missing: there is no silent fallback.
 */
export async function createSession(model: OnnxModel, options: SessionOptions): Promise<Session> {
  const session = await loadModel(model, options)
  return {
    run: async (feeds, outputs, { int8Outputs = [], deviceOutputs = {} } = {}) => {
      const fetches: Record<string, ort.Tensor | null> = toOrtTensors(deviceOutputs)
      for (const name of [...outputs, ...int8Outputs]) fetches[name] = null
      const results = await session.run(toOrtTensors(feeds), fetches)
      return Object.fromEntries([
        ...outputs.map((name) => [name, readFloats(results[name], name)]),
        ...int8Outputs.map((name) => [name, readIntegers(results[name], name)]),
      ])
    },
    close: () => session.release(),
  }
}

/** Runs the model once and leaves all of its outputs on the device (WebGPU only). Rejects where they do not fit. */
export async function createDeviceMemory(
  model: OnnxModel,
  feeds: Feeds,
  options: SessionOptions,
): Promise<DeviceMemory> {
  const session = await loadModel(model, options, { preferredOutputLocation: 'gpu-buffer' })
  const results = await runOrRelease(session, feeds)
  const tensors = new Map(
    results.map(([name, result]): [string, DeviceTensor] => {
      assert(result.location === 'gpu-buffer', `The output "${name}" is on the device.`)
      const tensor = { dims: result.dims }
      ortTensors.set(tensor, result)
      return [name, tensor]
    }),
  )
  return {
    tensors,
    // The memory is the session's: released after it, it takes the process down.
    free: async () => {
      for (const [, result] of results) result.dispose()
      await session.release()
    },
  }
}

async function runOrRelease(session: ort.InferenceSession, feeds: Feeds) {
  try {
    return Object.entries(await session.run(toOrtTensors(feeds)))
  } catch (error) {
    await session.release()
    throw error
  }
}

async function loadModel(
  model: OnnxModel,
  { executionProvider, threadCount }: SessionOptions,
  more: ort.InferenceSession.SessionOptions = {},
): Promise<ort.InferenceSession> {
  const extra = (await areProductsExact()) ? {} : { session: { x64quantprecision: '1' } }
  const load = (providers: readonly string[]) =>
    ort.InferenceSession.create(model.proto, {
      executionProviders: providers,
      intraOpNumThreads: threadCount,
      graphOptimizationLevel: 'all',
      logSeverityLevel: LOG_ERRORS,
      externalData: model.weights,
      extra,
      ...more,
    })
  if (executionProvider === 'cpu') return load(['cpu'])
  try {
    return await load([executionProvider, 'cpu'])
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new ExecutionProviderError(
      `The execution provider "${executionProvider}" cannot run here: ${NEEDS[executionProvider]}. ` +
        `ONNX Runtime was asked for it and said: ${reason.trim()} Install what is missing, or set the provider to "cpu".`,
      { cause },
    )
  }
}

const LOG_ERRORS = 3

/**
 * ONNX Runtime multiplies uint8 by int8 fast, and on x64 processors without VNNI wrong where two products
 * pass 16 bits, unless it is told to be exact, which makes it slower on all processors, and of which it hears
 * only for weights. So the processor is asked, once a thread.
 */
export function areProductsExact(): Promise<boolean> {
  products ??= askForProducts()
  return products
}

let products: Promise<boolean> | undefined

async function askForProducts(): Promise<boolean> {
  const { proto, weights } = buildOverflowProbe()
  const session = await ort.InferenceSession.create(proto, { externalData: weights })
  try {
    for (const input of PROBE_INPUTS) {
      const { y } = await session.run(toOrtTensors({ x: input }))
      if (!readFloats(y, 'y').every((value) => value === EXACT_PRODUCT)) {
        return false
      }
    }
    return true
  } finally {
    await session.release()
  }
}

const NEEDS = {
  webgpu:
    'it needs a GPU with Vulkan, Metal or Direct3D 12 and its driver (on Linux libvulkan.so.1)',
  cuda: 'it needs an NVIDIA driver, CUDA 12, cuDNN 9 and the CUDA libraries that onnxruntime-node installs unless told to skip them',
} as const satisfies Record<Exclude<ExecutionProvider, 'cpu'>, string>

/** Tensors that are fed in every step are wrapped once. */
const ortTensors = new WeakMap<Tensor | DeviceTensor, ort.Tensor>()

function toOrtTensors(tensors: Feeds): Record<string, ort.Tensor> {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [name, toOrtTensor(tensor)]),
  )
}

function toOrtTensor(tensor: Tensor | DeviceTensor): ort.Tensor {
  const known = ortTensors.get(tensor)
  if (known) return known
  assert('data' in tensor, 'Memory of the device is known.')
  const { data, dims } = tensor
  const created =
    data instanceof Uint8Array
      ? new ort.Tensor('bool', data, dims)
      : data instanceof Float32Array
        ? new ort.Tensor('float32', data, dims)
        : data instanceof Int8Array
          ? new ort.Tensor('int8', data, dims)
          : new ort.Tensor('int64', data, dims)
  ortTensors.set(tensor, created)
  return created
}

function readFloats(tensor: ort.Tensor | undefined, name: string): Float32Array {
  if (tensor?.data instanceof Float32Array) return tensor.data
  throw new TypeError(`The graph's output "${name}" is not float32.`)
}

function readIntegers(tensor: ort.Tensor | undefined, name: string): Int8Array {
  if (tensor?.data instanceof Int8Array) return tensor.data
  throw new TypeError(`The graph's output "${name}" is not int8.`)
}
