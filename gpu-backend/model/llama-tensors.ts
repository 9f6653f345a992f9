import { LINEAR_NAMES, type LinearName, linearSizes, type ModelConfig } from './model-source.ts'

export type TensorRole =
  | 'embedding'
  | 'finalNorm'
  | 'head'
  | 'ropeFactors'
  | `${number}.${LinearName | 'attentionNorm' | 'ffnNorm' | 'qBias' | 'kBias' | 'vBias' | 'qNorm' | 'kNorm'}`

/** A tensor that a Llama-family model must have. */
export interface LlamaTensor {
  readonly role: TensorRole
  readonly shape: readonly number[]
  readonly gguf: string
  readonly huggingFace: string
}

const LINEAR_FILE_NAMES = {
  q: { gguf: 'attn_q', huggingFace: 'self_attn.q_proj' },
  k: { gguf: 'attn_k', huggingFace: 'self_attn.k_proj' },
  v: { gguf: 'attn_v', huggingFace: 'self_attn.v_proj' },
  o: { gguf: 'attn_output', huggingFace: 'self_attn.o_proj' },
  gate: { gguf: 'ffn_gate', huggingFace: 'mlp.gate_proj' },
  up: { gguf: 'ffn_up', huggingFace: 'mlp.up_proj' },
  down: { gguf: 'ffn_down', huggingFace: 'mlp.down_proj' },
} as const satisfies Record<LinearName, { gguf: string; huggingFace: string }>

/** Every tensor of a model of this shape, with its name in either file format. */
export function listLlamaTensors(config: ModelConfig, isHeadTied: boolean): LlamaTensor[] {
  const { hiddenSize, vocabSize } = config
  const table = [vocabSize, hiddenSize]
  const tensors: LlamaTensor[] = [
    weight('embedding', table, 'token_embd', 'model.embed_tokens'),
    weight('finalNorm', [hiddenSize], 'output_norm', 'model.norm'),
  ]
  if (!isHeadTied) tensors.push(weight('head', table, 'output', 'lm_head'))
  if (config.ropeScaling.kind === 'factors') {
    // Hugging Face's configs have numbers where GGUF has this tensor.
    tensors.push(weight('ropeFactors', [config.headSize / 2], 'rope_freqs', 'rope_freqs'))
  }
  for (let layer = 0; layer < config.layerCount; layer++) {
    tensors.push(...listLayerTensors(config, layer))
  }
  return tensors
}

function listLayerTensors(config: ModelConfig, layer: number): LlamaTensor[] {
  const gguf = `blk.${layer}`
  const huggingFace = `model.layers.${layer}`
  const hidden = [config.hiddenSize]
  const sizes = linearSizes(config)
  const tensors = [
    weight(`${layer}.attentionNorm`, hidden, `${gguf}.attn_norm`, `${huggingFace}.input_layernorm`),
    weight(
      `${layer}.ffnNorm`,
      hidden,
      `${gguf}.ffn_norm`,
      `${huggingFace}.post_attention_layernorm`,
    ),
  ]
  for (const name of LINEAR_NAMES) {
    const [inputs, outputs] = sizes[name]
    const names = LINEAR_FILE_NAMES[name]
    const path = [`${gguf}.${names.gguf}`, `${huggingFace}.${names.huggingFace}`] as const
    tensors.push(weight(`${layer}.${name}`, [outputs, inputs], ...path))
    if (config.hasQkvBias && (name === 'q' || name === 'k' || name === 'v')) {
      tensors.push(bias(`${layer}.${name}Bias`, [outputs], ...path))
    }
  }
  if (config.hasQkNorm) {
    for (const which of ['q', 'k'] as const) {
      const path = [`${gguf}.attn_${which}_norm`, `${huggingFace}.self_attn.${which}_norm`] as const
      tensors.push(weight(`${layer}.${which}Norm`, [config.headSize], ...path))
    }
  }
  return tensors
}

type NamedTensor = (
  role: TensorRole,
  shape: readonly number[],
  gguf: string,
  huggingFace: string,
) => LlamaTensor

const weight: NamedTensor = (role, shape, gguf, huggingFace) => ({
  role,
  shape,
  gguf: `${gguf}.weight`,
  huggingFace: `${huggingFace}.weight`,
})

const bias: NamedTensor = (role, shape, gguf, huggingFace) => ({
  role,
  shape,
  gguf: `${gguf}.bias`,
  huggingFace: `${huggingFace}.bias`,
})
