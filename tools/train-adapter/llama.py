"""A Llama forward pass in JAX with LoRA on chosen layers: whole sequences to train on, single steps to answer with.

Letters: B batch, T tokens, H query heads, K key/value heads, D head size, C hidden, L layers, R rank.
A LoRA is {module: (A [L, R, in], B [L, out, R])} over a stack of layers; None: no adapter.
"""

import jax
import jax.numpy as jnp


def rms_norm(x, weight, epsilon):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rotate(x, positions, theta):
    """RoPE on [B, T, heads, D], rotate-half form; positions [T]."""
    half = x.shape[-1] // 2
    angles = positions[:, None] / theta ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def linear(x, weights, lora, module, scale):
    y = x @ weights[module].T
    if lora is None:
        return y
    a, b = lora[module]
    return y + scale * ((x @ a.T) @ b.T)


def block(x, weights, lora, config, scale, positions, cache):
    """One layer over [B, T, C] at `positions` [T]; `cache` is its keys and values [B, S, K, D], filled up to there."""
    batch, length, _ = x.shape
    normed = rms_norm(x, weights["attn_norm"], config.norm_epsilon)
    project = lambda name: linear(normed, weights, lora, f"self_attn.{name}_proj", scale).reshape(
        batch, length, -1, config.head_size
    )
    query = rotate(project("q"), positions, config.rope_theta)
    key = rotate(project("k"), positions, config.rope_theta)
    at = (0, positions[0], 0, 0)
    keys = jax.lax.dynamic_update_slice(cache[0], key, at)
    values = jax.lax.dynamic_update_slice(cache[1], project("v"), at)
    grouped = query.reshape(batch, length, config.kv_head_count, -1, config.head_size)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, keys) / config.head_size**0.5
    visible = jnp.arange(keys.shape[1])[None, :] <= positions[:, None]
    attention = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
    mixed = jnp.einsum("bkgts,bskd->btkgd", attention, values).reshape(batch, length, -1)
    x = x + linear(mixed, weights, lora, "self_attn.o_proj", scale)
    normed = rms_norm(x, weights["ffn_norm"], config.norm_epsilon)
    gate = linear(normed, weights, lora, "mlp.gate_proj", scale)
    up = linear(normed, weights, lora, "mlp.up_proj", scale)
    return x + linear(jax.nn.silu(gate) * up, weights, lora, "mlp.down_proj", scale), (keys, values)


def run_layers(x, layers, lora, config, scale, positions, caches):
    """A stack of layers, as one scan; returns [B, T, C] and the caches [L, B, S, K, D]."""

    def step(carry, layer):
        weights, layer_lora, cache = layer
        return block(carry, weights, layer_lora, config, scale, positions, cache)

    return jax.lax.scan(step, x, (layers, lora, caches))


def empty_caches(config, layer_count, batch, length):
    shape = (layer_count, batch, length, config.kv_head_count, config.head_size)
    return jnp.zeros(shape), jnp.zeros(shape)
