/** Data of an initializer; the array's class is its element type. */
export type TensorData = Float32Array | Uint8Array | Int8Array | BigInt64Array

export type ElementType = 'float32' | 'uint8' | 'int8' | 'int64' | 'bool'

/** A number that is an integer, a list of them, a float, or the branch of an `If`. */
export type Attribute =
  | number
  | readonly number[]
  | { readonly float: number }
  | { readonly graph: OnnxGraph }

/** Bytes of one initializer, kept outside the protobuf (which ends at 2 GB). */
export interface ExternalWeights {
  readonly path: string
  readonly data: Uint8Array
}

export interface OnnxModel {
  readonly proto: Uint8Array
  readonly weights: readonly ExternalWeights[]
}

/** Initializers of fewer bytes stand in the protobuf. */
const MIN_EXTERNAL_BYTES = 1024

/** `TensorProto.DataType`. */
const ELEMENT_TYPES = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int64: 7,
  bool: 9,
} as const satisfies Record<ElementType, number>

/** `AttributeProto.AttributeType`. */
const ATTRIBUTE_TYPES = { float: 1, int: 2, graph: 5, ints: 7 } as const

const IR_VERSION = 8
const OPSET = 17
const MICROSOFT = 'com.microsoft'

interface GraphOptions {
  readonly hasFusedMatMul?: boolean
  readonly parent?: OnnxGraph | null
}

/**
 * Writes an ONNX graph node by node, in topological order. Values are named by the writer; inputs,
 * initializers and outputs by the caller. Field numbers are those of `onnx/onnx.proto3`.
 */
export class OnnxGraph {
  readonly #nodes: Uint8Array[] = []
  readonly #initializers: Uint8Array[] = []
  readonly #inputs: Uint8Array[] = []
  readonly #outputs: Uint8Array[] = []
  readonly #weights: ExternalWeights[] = []
  readonly #constants = new Set<string>()
  readonly #hasFusedMatMul: boolean
  readonly #parent: OnnxGraph | null
  #valueCount = 0

  /** `hasFusedMatMul`: false for WebGPU, where ONNX Runtime would run it on the CPU. */
  constructor({ hasFusedMatMul = true, parent = null }: GraphOptions = {}) {
    this.#hasFusedMatMul = hasFusedMatMul
    this.#parent = parent
  }

  /** `dims`: a number, or a letter where it varies. */
  input(name: string, type: ElementType, dims: readonly (number | string)[]): string {
    this.#inputs.push(encodeValueInfo(name, type, dims))
    return name
  }

  /** Makes the value `name` an output; `node` gave it that name. */
  output(name: string, type: ElementType, dims?: readonly (number | string)[]): void {
    this.#outputs.push(encodeValueInfo(name, type, dims))
  }

  initializer(name: string, data: TensorData, dims: readonly number[]): string {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    const isExternal = bytes.length >= MIN_EXTERNAL_BYTES
    if (isExternal) this.#weights.push({ path: name, data: bytes })
    this.#initializers.push(
      concatBytes([
        ...dims.map((dim) => intField(1, dim)),
        intField(2, ELEMENT_TYPES[elementTypeOf(data)]),
        stringField(8, name),
        ...(isExternal ? encodeExternal(name, bytes.length) : [bytesField(9, bytes)]),
      ]),
    )
    return name
  }

  /** A constant vector of int64: a shape, sizes, axes. Written once, in the outermost graph. */
  ints(values: readonly number[]): string {
    if (this.#parent) return this.#parent.ints(values)
    const name = `ints_${values.join('_')}`
    return this.#constant(name, () =>
      this.initializer(name, BigInt64Array.from(values, BigInt), [values.length]),
    )
  }

  /** A constant float32 scalar, likewise. */
  float(value: number): string {
    if (this.#parent) return this.#parent.float(value)
    const name = `float_${value}`
    return this.#constant(name, () => this.initializer(name, Float32Array.of(value), []))
  }

  /** A constant float32 matrix that many nodes use, written once under its name. */
  matrix(name: string, create: () => Float32Array, dims: readonly [number, number]): string {
    if (this.#parent) return this.#parent.matrix(name, create, dims)
    return this.#constant(name, () => this.initializer(name, create(), dims))
  }

  /** A constant uint8 scalar: a zero point. */
  byte(value: number): string {
    if (this.#parent) return this.#parent.byte(value)
    const name = `byte_${value}`
    return this.#constant(name, () => this.initializer(name, Uint8Array.of(value), []))
  }

  /** Adds a node of ONNX's own domain with one output, and returns the output's name. */
  node(
    op: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>> = {},
    output = this.#nextName(op),
  ): string {
    this.#add(op, '', { inputs, outputs: [output], attributes })
    return output
  }

  /** The same for an operator of ONNX Runtime's own (`com.microsoft`). */
  microsoftNode(
    op: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, Attribute>> = {},
    output = this.#nextName(op),
  ): string {
    this.#add(op, MICROSOFT, { inputs, outputs: [output], attributes })
    return output
  }

  /** `a · bᵀ` by the last two of the `rank` dims. */
  timesTransposed(a: string, b: string, rank: number): string {
    if (this.#hasFusedMatMul) return this.microsoftNode('FusedMatMul', [a, b], { transB: 1 })
    if (rank === 2) return this.node('Gemm', [a, b], { transB: 1 })
    const perm = Array.from({ length: rank - 2 }, (_, axis) => axis)
    const transposed = this.node('Transpose', [b], { perm: [...perm, rank - 1, rank - 2] })
    return this.node('MatMul', [a, transposed])
  }

  /** The sum of `value` over its outermost axis, flat: [1, …]. `ones` [1, size of that axis]. */
  sumOuter(value: string, ones: string): string {
    return this.node('MatMul', [ones, this.node('Reshape', [value, this.ints([0, -1])])])
  }

  /** `SkipSimplifiedLayerNormalization`: the norm of the sum, and the sum. */
  skipNorm(input: string, skip: string, options: { gamma: string; epsilon: number }) {
    const names = { norm: this.#nextName('Norm'), sum: this.#nextName('Residual') }
    this.#add('SkipSimplifiedLayerNormalization', MICROSOFT, {
      inputs: [input, skip, options.gamma],
      outputs: [names.norm, '', '', names.sum],
      attributes: { epsilon: { float: options.epsilon } },
    })
    return names
  }

  /** Parts of `value` along `axis`; `sizes` names an int64 initializer with a size for each. */
  split(value: string, sizes: string, options: { axis: number; count: 2 }): [string, string]
  split(value: string, sizes: string, options: { axis: number; count: 3 }): [string, string, string]
  split(value: string, sizes: string, options: { axis: number; count: number }): string[]
  split(value: string, sizes: string, { axis, count }: { axis: number; count: number }): string[] {
    const outputs = Array.from({ length: count }, () => this.#nextName('Split'))
    this.#add('Split', '', { inputs: [value, sizes], outputs, attributes: { axis } })
    return outputs
  }

  /** `condition ? yes : no`, where only the branch that is taken runs; both see this graph's values. */
  either(
    condition: string,
    yes: (branch: OnnxGraph) => string,
    no: (branch: OnnxGraph) => string,
  ): string {
    const writeBranch = (write: (branch: OnnxGraph) => string) => {
      const branch = new OnnxGraph({ hasFusedMatMul: this.#hasFusedMatMul, parent: this })
      branch.output(write(branch), 'float32')
      return { graph: branch }
    }
    return this.node('If', [condition], {
      then_branch: writeBranch(yes),
      else_branch: writeBranch(no),
    })
  }

  toModel(): OnnxModel {
    const opset = (domain: string, version: number) =>
      bytesField(8, concatBytes([stringField(1, domain), intField(2, version)]))
    const proto = concatBytes([
      intField(1, IR_VERSION),
      stringField(2, 'tallygate'),
      bytesField(7, this.encode()),
      opset('', OPSET),
      opset(MICROSOFT, 1),
    ])
    return { proto, weights: this.#weights }
  }

  /** A `GraphProto`. */
  encode(): Uint8Array {
    return concatBytes([
      ...this.#nodes.map((node) => bytesField(1, node)),
      stringField(2, 'graph'),
      ...this.#initializers.map((initializer) => bytesField(5, initializer)),
      ...this.#inputs.map((input) => bytesField(11, input)),
      ...this.#outputs.map((output) => bytesField(12, output)),
    ])
  }

  #add(
    op: string,
    domain: string,
    node: {
      inputs: readonly string[]
      outputs: readonly string[]
      attributes: Readonly<Record<string, Attribute>>
    },
  ): void {
    this.#nodes.push(
      concatBytes([
        ...node.inputs.map((name) => stringField(1, name)),
        ...node.outputs.map((name) => stringField(2, name)),
        stringField(3, this.#nextName(`node_${op}`)),
        stringField(4, op),
        ...Object.entries(node.attributes).map(([name, attribute]) =>
          bytesField(5, concatBytes([stringField(1, name), ...encodeAttribute(attribute)])),
        ),
        ...(domain ? [stringField(7, domain)] : []),
      ]),
    )
  }

  #constant(name: string, write: () => string): string {
    if (this.#constants.has(name)) return name
    this.#constants.add(name)
    return write()
  }

  /** Unique in this graph and its branches. */
  #nextName(prefix: string): string {
    if (this.#parent) return this.#parent.#nextName(prefix)
    this.#valueCount += 1
    return `${prefix}_${this.#valueCount}`
  }
}

function elementTypeOf(data: TensorData): ElementType {
  if (data instanceof Float32Array) return 'float32'
  if (data instanceof Int8Array) return 'int8'
  return data instanceof Uint8Array ? 'uint8' : 'int64'
}

function encodeAttribute(attribute: Attribute): Uint8Array[] {
  const type = (name: keyof typeof ATTRIBUTE_TYPES) => intField(20, ATTRIBUTE_TYPES[name])
  if (typeof attribute === 'number') return [intField(3, attribute), type('int')]
  if ('float' in attribute) return [floatField(2, attribute.float), type('float')]
  if ('graph' in attribute) return [bytesField(6, attribute.graph.encode()), type('graph')]
  return [...attribute.map((value) => intField(8, value)), type('ints')]
}

function encodeExternal(path: string, length: number): Uint8Array[] {
  const entry = (key: string, value: string) =>
    bytesField(13, concatBytes([stringField(1, key), stringField(2, value)]))
  const EXTERNAL = 1
  return [entry('location', path), entry('length', String(length)), intField(14, EXTERNAL)]
}

function encodeValueInfo(
  name: string,
  type: ElementType,
  dims?: readonly (number | string)[],
): Uint8Array {
  const encodeDim = (dim: number | string) =>
    bytesField(1, typeof dim === 'string' ? stringField(2, dim) : intField(1, dim))
  const shape = dims ? [bytesField(2, concatBytes(dims.map(encodeDim)))] : []
  const tensorType = concatBytes([intField(1, ELEMENT_TYPES[type]), ...shape])
  return concatBytes([stringField(1, name), bytesField(2, bytesField(1, tensorType))])
}

const WIRE_TYPES = { varint: 0, bytes: 2, fixed32: 5 } as const

function intField(field: number, value: number): Uint8Array {
  return concatBytes([varint((field << 3) | WIRE_TYPES.varint), varint(value)])
}

function floatField(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setFloat32(0, value, true)
  return concatBytes([varint((field << 3) | WIRE_TYPES.fixed32), bytes])
}

function stringField(field: number, text: string): Uint8Array {
  return bytesField(field, new TextEncoder().encode(text))
}

function bytesField(field: number, bytes: Uint8Array): Uint8Array {
  const tag = varint((field << 3) | WIRE_TYPES.bytes)
  return concatBytes([tag, varint(bytes.length), bytes])
}

/** Negative numbers take ten bytes, as int64 in two's complement. */
function varint(value: number): Uint8Array {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128)
    rest >>= 7n
  }
  bytes.push(Number(rest))
  return Uint8Array.from(bytes)
}

function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts)
}
