"""Reads a llama-architecture GGUF: weights as float32 in the Hugging Face row order, and the tokenizer."""

from dataclasses import dataclass

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

# PEFT's module path -> GGUF's tensor name, in the order of a block.
LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Config:
    layer_count: int
    head_count: int
    kv_head_count: int
    head_size: int
    rope_theta: float
    norm_epsilon: float
    eos_id: int


@dataclass(frozen=True)
class Model:
    config: Config
    layers: dict  # PEFT's module path or "attn_norm"/"ffn_norm" -> [layers, ...] float32, linears [layers, out, in]
    embedding: np.ndarray  # [vocabulary, hidden]; the output head too
    final_norm: np.ndarray  # [hidden]
    tokenizer: Tokenizer
    chat_template: str


def read_model(path: str) -> Model:
    reader = GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "output.weight" in tensors:
        raise SystemExit("a model whose output head is not its embedding is not supported")
    head_count = field("llama.attention.head_count")
    config = Config(
        layer_count=field("llama.block_count"),
        head_count=head_count,
        kv_head_count=field("llama.attention.head_count_kv"),
        head_size=field("llama.embedding_length") // head_count,
        rope_theta=field("llama.rope.freq_base"),
        norm_epsilon=field("llama.attention.layer_norm_rms_epsilon"),
        eos_id=field("tokenizer.ggml.eos_token_id"),
    )

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def read_linear(layer: int, module: str) -> np.ndarray:
        weight = read(f"blk.{layer}.{LINEARS[module]}.weight")
        if module in ("self_attn.q_proj", "self_attn.k_proj"):
            # llama.cpp interleaves the two halves of a head's rows for its RoPE: undo it.
            halves = weight.reshape(-1, config.head_size // 2, 2, weight.shape[1])
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
        return weight

    indices = range(config.layer_count)
    layers = {module: np.stack([read_linear(i, module) for i in indices]) for module in LINEARS}
    for norm in ("attn_norm", "ffn_norm"):
        layers[norm] = np.stack([read(f"blk.{i}.{norm}.weight") for i in indices])
    return Model(
        config=config,
        layers=layers,
        embedding=read("token_embd.weight"),
        final_norm=read("output_norm.weight"),
        tokenizer=read_tokenizer(field),
        chat_template=field("tokenizer.chat_template"),
    )


def read_tokenizer(field) -> Tokenizer:
    if field("tokenizer.ggml.pre") != "smollm":
        raise SystemExit(f"pre-tokenizer {field('tokenizer.ggml.pre')} is not supported")
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer
