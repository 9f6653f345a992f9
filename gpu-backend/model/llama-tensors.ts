import { LINEAR_NAMES, type LinearName, linearSizes, type ModelConfig } from './model-source.ts'

export type TensorRole =
  | 'embedding'
  | 'finalNorm'
  | 'head'
  | `${number}.${LinearName | 'attentionNorm' | 'ffnNorm'}`

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
    tensor('embedding', table, 'token_embd', 'model.embed_tokens'),
    tensor('finalNorm', [hiddenSize], 'output_norm', 'model.norm'),
  ]
  if (!isHeadTied) tensors.push(tensor('head', table, 'output', 'lm_head'))
  for (let layer = 0; layer < config.layerCount; layer++) {
    tensors.push(...listLayerTensors(config, layer))
  }
  return tensors
}

function listLayerTensors(config: ModelConfig, layer: number): LlamaTensor[] {
  const gguf = `blk.${layer}`
  const huggingFace = `model.layers.${layer}`
  const norms = [config.hiddenSize]
  const sizes = linearSizes(config)
  return [
    tensor(`${layer}.attentionNorm`, norms, `${gguf}.attn_norm`, `${huggingFace}.input_layernorm`),
    tensor(
      `${layer}.ffnNorm`,
      norms,
      `${gguf}.ffn_norm`,
      `${huggingFace}.post_attention_layernorm`,
    ),
    ...LINEAR_NAMES.map((name) => {
      const [inputs, outputs] = sizes[name]
      const names = LINEAR_FILE_NAMES[name]
      return tensor(
        `${layer}.${name}`,
        [outputs, inputs],
        `${gguf}.${names.gguf}`,
        `${huggingFace}.${names.huggingFace}`,
      )
    }),
  ]
}

function tensor(
  role: TensorRole,
  shape: readonly number[],
  gguf: string,
  huggingFace: string,
): LlamaTensor {
  return { role, shape, gguf: `${gguf}.weight`, huggingFace: `${huggingFace}.weight` }
}
