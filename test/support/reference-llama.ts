import type { LoraWeights } from '../../gpu-backend/adapters/lora-weights.ts'
import type {
  LinearName,
  LinearWeights,
  ModelConfig,
  ModelSource,
} from '../../gpu-backend/model/model-source.ts'

/**
 * The referee: a Llama in plain loops and float64, one token after the other, nothing shared with
 * the code under test. Slow. Returns the logits [V] after each token.
 */
export function referenceLogits(
  source: ModelSource,
  tokens: readonly number[],
  adapter: LoraWeights | null = null,
): Float64Array[] {
  const head = expand(source.head())
  return referenceStates(source, tokens, adapter).map((state) => multiply(head, state))
}

/** What the head sees after each token: [H] each. */
export function referenceStates(
  source: ModelSource,
  tokens: readonly number[],
  adapter: LoraWeights | null = null,
): Float64Array[] {
  const { config } = source
  const { headCount, kvHeadCount, headSize, hiddenSize, layerCount } = config
  const embedding = expand(source.embedding())
  const layers = Array.from({ length: layerCount }, (_, layer) => ({
    attentionNorm: source.norm(layer, 'attention'),
    ffnNorm: source.norm(layer, 'ffn'),
    apply: (name: LinearName, x: Float64Array) => {
      const y = multiply(linears.get(`${layer}.${name}`) ?? new Float64Array(), x)
      if (config.hasQkvBias && (name === 'q' || name === 'k' || name === 'v')) {
        const bias = source.bias(layer, name)!
        for (let o = 0; o < y.length; o++) y[o]! += bias[o]!
      }
      const lora = adapter?.modules.get(`${layer}.${name}`)
      if (!lora) return y
      const delta = new Float64Array(y.length)
      for (let r = 0; r < lora.rank; r++) {
        let inner = 0
        for (let i = 0; i < x.length; i++) inner += x[i]! * lora.a[r * x.length + i]!
        for (let o = 0; o < y.length; o++) delta[o]! += inner * lora.b[r * y.length + o]!
      }
      return y.map((value, o) => value + lora.scale * delta[o]!)
    },
    normHeads: (which: 'q' | 'k', x: Float64Array) => {
      if (!config.hasQkNorm) return x
      const gamma = source.headNorm(layer, which)!
      const heads = Array.from({ length: x.length / headSize }, (_, h) =>
        rmsNorm(x.slice(h * headSize, (h + 1) * headSize), gamma, config.normEpsilon),
      )
      return Float64Array.from(heads.flatMap((head) => [...head]))
    },
    keys: [] as Float64Array[],
    values: [] as Float64Array[],
  }))
  const rope = referenceRope(config)
  const linears = new Map<string, Float64Array>()
  for (let layer = 0; layer < layerCount; layer++) {
    for (const name of ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const) {
      linears.set(`${layer}.${name}`, expand(source.linear(layer, name)))
    }
  }

  return tokens.map((token, position) => {
    let x: Float64Array = embedding.slice(token * hiddenSize, (token + 1) * hiddenSize)
    for (const layer of layers) {
      const normed = rmsNorm(x, layer.attentionNorm, config.normEpsilon)
      const q = rotate(layer.normHeads('q', layer.apply('q', normed)), position, rope)
      layer.keys.push(rotate(layer.normHeads('k', layer.apply('k', normed)), position, rope))
      layer.values.push(layer.apply('v', normed))
      const mixed = new Float64Array(headCount * headSize)
      for (let h = 0; h < headCount; h++) {
        const kvHead = Math.floor(h / (headCount / kvHeadCount))
        const scores = layer.keys.map((key) => {
          let score = 0
          for (let d = 0; d < headSize; d++) {
            score += q[h * headSize + d]! * key[kvHead * headSize + d]!
          }
          return score / Math.sqrt(headSize)
        })
        const highest = Math.max(...scores)
        const weights = scores.map((score) => Math.exp(score - highest))
        const total = weights.reduce((sum, weight) => sum + weight, 0)
        weights.forEach((weight, t) => {
          for (let d = 0; d < headSize; d++) {
            mixed[h * headSize + d]! += (weight / total) * layer.values[t]![kvHead * headSize + d]!
          }
        })
      }
      x = add(x, layer.apply('o', mixed))
      const middle = rmsNorm(x, layer.ffnNorm, config.normEpsilon)
      const gate = layer.apply('gate', middle)
      const up = layer.apply('up', middle)
      const gated = gate.map((value, i) => (value / (1 + Math.exp(-value))) * up[i]!)
      x = add(x, layer.apply('down', gated))
    }
    return rmsNorm(x, source.finalNorm(), config.normEpsilon)
  })
}

function expand(weights: LinearWeights): Float64Array {
  switch (weights.form) {
    case 'f32':
      return Float64Array.from(weights.values)
    case 'q4':
      return Float64Array.from({ length: weights.quants.length * 2 }, (_, i) => {
        const byte = weights.quants[Math.floor(i / 2)]!
        const nibble = i % 2 === 0 ? byte % 16 : Math.floor(byte / 16)
        const block = Math.floor(i / 32)
        return weights.scales[block]! * nibble + weights.mins[block]!
      })
    case 'q8':
      return Float64Array.from(weights.quants, (q, i) => weights.scales[Math.floor(i / 32)]! * q)
    case 'rotated8': {
      const inputs = weights.quants.length / weights.scales.length
      return unrotate(
        Float64Array.from(weights.quants, (q, i) => weights.scales[Math.floor(i / inputs)]! * q),
        Math.min(64, inputs & -inputs),
      )
    }
  }
}

/** Each `size` values times a Hadamard matrix over √size, whose signs are the parities of i AND j. */
function unrotate(values: Float64Array, size: number): Float64Array {
  const isOdd = (bits: number): boolean => bits !== 0 && (bits & 1) === (isOdd(bits >> 1) ? 0 : 1)
  return values.map((_, at) => {
    const start = at - (at % size)
    let sum = 0
    for (let i = 0; i < size; i++) {
      sum += values[start + i]! * (isOdd(i & (at - start)) ? -1 : 1)
    }
    return sum / Math.sqrt(size)
  })
}

/** `W [out, in] · x [in]`. */
function multiply(matrix: Float64Array, x: Float64Array): Float64Array {
  const y = new Float64Array(matrix.length / x.length)
  for (let o = 0; o < y.length; o++) {
    let sum = 0
    for (let i = 0; i < x.length; i++) sum += matrix[o * x.length + i]! * x[i]!
    y[o] = sum
  }
  return y
}

function rmsNorm(x: Float64Array, gamma: Float32Array, epsilon: number): Float64Array {
  let squares = 0
  for (const value of x) squares += value * value
  const factor = 1 / Math.sqrt(squares / x.length + epsilon)
  return x.map((value, i) => value * factor * gamma[i]!)
}

/** Rotate-half: element i of a head turns with element i + D/2. */
function rotate(x: Float64Array, position: number, rope: ReferenceRope): Float64Array {
  const half = rope.wavelengths.length
  const y = new Float64Array(x.length)
  for (let start = 0; start < x.length; start += 2 * half) {
    for (let i = 0; i < half; i++) {
      const angle = (2 * Math.PI * position) / rope.wavelengths[i]!
      const a = x[start + i]! * rope.attentionFactor
      const b = x[start + half + i]! * rope.attentionFactor
      y[start + i] = a * Math.cos(angle) - b * Math.sin(angle)
      y[start + half + i] = b * Math.cos(angle) + a * Math.sin(angle)
    }
  }
  return y
}

interface ReferenceRope {
  /** [D/2] positions in which pair i turns once. */
  readonly wavelengths: readonly number[]
  readonly attentionFactor: number
}

/** RoPE as the papers and Hugging Face's configurations define it, by wavelength. */
function referenceRope({ headSize, ropeTheta, ropeScaling }: ModelConfig): ReferenceRope {
  const base = Array.from(
    { length: headSize / 2 },
    (_, i) => 2 * Math.PI * ropeTheta ** ((2 * i) / headSize),
  )
  const rope = ropeScaling
  switch (rope.kind) {
    case 'none':
      return { wavelengths: base, attentionFactor: 1 }
    case 'linear':
      return { wavelengths: base.map((length) => length * rope.factor), attentionFactor: 1 }
    case 'factors':
      return { wavelengths: base.map((length, i) => length * rope.factors[i]!), attentionFactor: 1 }
    case 'llama3': {
      const long = rope.originalContextLength / rope.lowFreqFactor
      const short = rope.originalContextLength / rope.highFreqFactor
      const wavelengths = base.map((length) => {
        if (length < short) return length
        if (length > long) return length * rope.factor
        const smooth =
          (rope.originalContextLength / length - rope.lowFreqFactor) /
          (rope.highFreqFactor - rope.lowFreqFactor)
        return 1 / ((1 - smooth) / (length * rope.factor) + smooth / length)
      })
      return { wavelengths, attentionFactor: 1 }
    }
    case 'yarn': {
      // The pair whose wavelength lets it turn so often within the original context.
      const dimension = (turns: number) =>
        (Math.log(rope.originalContextLength / turns / (2 * Math.PI)) / Math.log(ropeTheta)) *
        (headSize / 2)
      const [fast, slow] = [dimension(rope.betaFast), dimension(rope.betaSlow)]
      const from = Math.max(0, rope.isTruncated ? Math.floor(fast) : fast)
      const to = Math.min(headSize - 1, rope.isTruncated ? Math.ceil(slow) : slow)
      const wavelengths = base.map((length, i) => {
        const ramp = i <= from ? 0 : i >= to ? 1 : (i - from) / (to - from)
        return 1 / (ramp / (rope.factor * length) + (1 - ramp) / length)
      })
      return { wavelengths, attentionFactor: rope.magnitude }
    }
  }
}

function add(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, i) => value + b[i]!)
}
