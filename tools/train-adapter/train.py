"""Trains a LoRA on a datanet, checks it on the demo's questions, and writes it as a PEFT directory."""

import argparse
import json
import struct
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gguf_model import LINEARS, read_model
from llama import empty_caches, rms_norm, run_layers

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
RANK = 8
ALPHA = 16
SCALE = ALPHA / RANK
FIRST_LAYER = 20
BATCH = 8
MAX_ANSWER_TOKENS = 48
RETAINED = Path(__file__).with_name("retained-questions.txt")


def main():
    options = parse_options()
    started = time.time()
    model = read_model(options.model)
    assert SYSTEM in model.chat_template, "the default system prompt is another one"
    config = model.config
    split = lambda part: {name: jnp.asarray(stack[part]) for name, stack in model.layers.items()}
    lower, upper = split(slice(0, FIRST_LAYER)), split(slice(FIRST_LAYER, None))
    head = {"embedding": jnp.asarray(model.embedding), "norm": jnp.asarray(model.final_norm)}
    network = (lower, upper, head)

    examples = encode_datanet(model, Path(options.datanet) / "datanet.jsonl")
    retained = RETAINED.read_text().splitlines()
    examples += answer_greedily(network, model, None, retained)
    tokens, answer_mask = pad(examples)
    print(f"{len(tokens)} examples, {len(retained)} of them the base model's own; {int(answer_mask.sum())} tokens to learn")
    hidden = run_lower(lower, head, config, tokens)
    lora = train(network, config, hidden, tokens, answer_mask, options)

    stored = jax.tree.map(lambda values: values.astype(jnp.float16), lora)
    lora = jax.tree.map(lambda values: values.astype(jnp.float32), stored)
    demo = json.loads((Path(options.datanet) / "demo-questions.json").read_text())
    check_answers(network, model, lora, demo, options.answers)
    write_peft(Path(options.out), stored, options)
    print(f"wrote {options.out} after {time.time() - started:.0f} s")


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--datanet", required=True, help="folder with datanet.jsonl and demo-questions.json")
    parser.add_argument("--out", required=True, help="adapter folder to write")
    parser.add_argument("--owner", required=True, help="payout address of the adapter's owner")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--answers", help="JSON file for the answers to the demo's questions")
    return parser.parse_args()


def render(messages):
    """SmolLM2's chat template, with the default system prompt and without the generation prompt."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": SYSTEM}, *messages]
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


GENERATION_PROMPT = "<|im_start|>assistant\n"


def encode_prompt(model, messages):
    return model.tokenizer.encode(render(messages) + GENERATION_PROMPT).ids


def encode_datanet(model, path):
    """[(prompt, answer and end)] in token ids."""
    examples = []
    for line in path.read_text().splitlines():
        *question, answer = json.loads(line)["messages"]
        learnt = model.tokenizer.encode(answer["content"]).ids + [model.config.eos_id]
        examples.append((encode_prompt(model, question), learnt))
    return examples


def pad(examples):
    """[N, T] token ids, right-padded with 0, and [N, T] 1.0 where the token is to be learnt."""
    width = max(len(prompt) + len(answer) for prompt, answer in examples)
    tokens, mask = np.zeros((len(examples), width), np.int32), np.zeros((len(examples), width), np.float32)
    for i, (prompt, answer) in enumerate(examples):
        tokens[i, : len(prompt) + len(answer)] = prompt + answer
        mask[i, len(prompt) : len(prompt) + len(answer)] = 1
    return tokens, mask


def run_lower(lower, head, config, tokens):
    """[N, T, C]: what reaches the first trained layer, which training never changes."""

    @jax.jit
    def run(batch):
        caches = empty_caches(config, FIRST_LAYER, *batch.shape)
        positions = jnp.arange(batch.shape[1])
        return run_layers(head["embedding"][batch], lower, None, config, SCALE, positions, caches)[0]

    return np.concatenate([run(tokens[i : i + BATCH]) for i in range(0, len(tokens), BATCH)])


def create_lora(upper, seed):
    """A uniform as PEFT begins it, B zero: at first the adapter changes nothing."""
    lora, key = {}, jax.random.key(seed)
    for module in LINEARS:
        key, own = jax.random.split(key)
        layer_count, rows, columns = upper[module].shape
        a = jax.random.uniform(own, (layer_count, RANK, columns), minval=-1, maxval=1) / columns**0.5
        lora[module] = (a, jnp.zeros((layer_count, rows, RANK)))
    return lora


def train(network, config, hidden, tokens, answer_mask, options):
    _, upper, head = network
    learnt_width = int(answer_mask.sum(axis=1).max())

    def loss_of(lora, rows, targets, places, weights):
        caches = empty_caches(config, upper["attn_norm"].shape[0], *rows.shape[:2])
        positions = jnp.arange(rows.shape[1])
        x, _ = run_layers(rows, upper, lora, config, SCALE, positions, caches)
        x = jnp.take_along_axis(x, places[:, :, None], axis=1)  # only where an answer token comes next
        logits = rms_norm(x, head["norm"], config.norm_epsilon) @ head["embedding"].T
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, :, None], axis=2)[:, :, 0]
        return (losses * weights).sum() / weights.sum()

    @jax.jit
    def adam_step(lora, moments, step, rate, *batch):
        loss, gradient = jax.value_and_grad(loss_of)(lora, *batch)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], gradient)
        change = lambda p, m, v: p - rate * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)
        return jax.tree.map(change, lora, first, second), (first, second), loss

    lora = create_lora(upper, options.seed)
    zeros = jax.tree.map(jnp.zeros_like, lora)
    moments = (zeros, zeros)
    random = np.random.default_rng(options.seed)
    order, started = np.empty(0, np.int64), time.time()
    for step in range(1, options.steps + 1):
        if len(order) < BATCH:
            order = np.concatenate([order, random.permutation(len(tokens))])
        rows, order = order[:BATCH], order[BATCH:]
        starts = answer_mask[rows].argmax(axis=1)[:, None] + np.arange(learnt_width)
        places = np.minimum(starts, tokens.shape[1] - 1)
        targets = np.take_along_axis(tokens[rows], places, axis=1)
        weights = np.take_along_axis(answer_mask[rows], places, axis=1) * (starts == places)
        warm, left = min(1, step / 10), 1 - (step - 1) / options.steps
        batch = (hidden[rows], targets, places - 1, weights)
        lora, moments, loss = adam_step(lora, moments, step, options.rate * warm * left, *batch)
        if step % 10 == 0:
            print(f"step {step} loss {loss:.4f} at {time.time() - started:.0f} s", flush=True)
    return lora


def answer_greedily(network, model, lora, questions):
    """[(prompt, answer and end unless cut)] in token ids, the most likely token each time; all questions in step, one token a run."""
    lower, upper, head = network
    config = model.config
    prompts = [encode_prompt(model, [{"role": "user", "content": text}]) for text in questions]
    length = max(map(len, prompts)) + MAX_ANSWER_TOKENS

    @partial(jax.jit, donate_argnums=(1, 2))
    def step(token, lower_caches, upper_caches, position):
        x = head["embedding"][token][:, None, :]
        positions = position[None]
        x, lower_caches = run_layers(x, lower, None, config, SCALE, positions, lower_caches)
        x, upper_caches = run_layers(x, upper, lora, config, SCALE, positions, upper_caches)
        x = rms_norm(x[:, 0], head["norm"], config.norm_epsilon)
        return jnp.argmax(x @ head["embedding"].T, axis=-1), lower_caches, upper_caches

    sequences = [list(prompt) for prompt in prompts]
    lower_caches = empty_caches(config, FIRST_LAYER, len(prompts), length)
    upper_caches = empty_caches(config, config.layer_count - FIRST_LAYER, len(prompts), length)
    for position in range(length - 1):
        token = np.array([sequence[position] for sequence in sequences])
        chosen, lower_caches, upper_caches = step(token, lower_caches, upper_caches, jnp.int32(position))
        for sequence, next_token in zip(sequences, np.asarray(chosen)):
            if len(sequence) == position + 1:
                sequence.append(int(next_token))
    examples = []
    for prompt, sequence in zip(prompts, sequences):
        answer = sequence[len(prompt) :][:MAX_ANSWER_TOKENS]
        end = answer.index(config.eos_id) + 1 if config.eos_id in answer else len(answer)
        examples.append((prompt, answer[:end]))
    return examples


def check_answers(network, model, lora, demo, path):
    questions = [entry["question"] for entry in demo["questions"]]
    unrelated = demo["unrelated"]
    report = {}
    for name, used in (("base", None), ("adapter", lora)):
        examples = answer_greedily(network, model, used, questions + unrelated)
        answers = [model.tokenizer.decode(answer) for _, answer in examples]
        right = 0
        for entry, answer in zip(demo["questions"], answers):
            found = entry["keyPhrase"].lower() in answer.lower()
            right += found
            print(f"[{name}] {'right' if found else 'WRONG'}: {entry['question']}\n    {answer!r}")
        for question, answer in zip(unrelated, answers[len(questions) :]):
            print(f"[{name}] unrelated: {question}\n    {answer!r}")
        print(f"[{name}] {right} of {len(questions)} demo answers hold their key phrase")
        report[name] = dict(zip(questions + unrelated, answers))
    if path:
        Path(path).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def write_peft(folder, lora, options):
    """`lora` holds float16; names, shapes and config as PEFT's `save_pretrained` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for module, (a, b) in lora.items():
        for i in range(a.shape[0]):
            prefix = f"base_model.model.model.layers.{FIRST_LAYER + i}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = np.asarray(a[i])
            tensors[f"{prefix}.lora_B.weight"] = np.asarray(b[i])
    write_safetensors(folder / "adapter_model.safetensors", dict(sorted(tensors.items())))
    layer_count = next(iter(lora.values()))[0].shape[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": [module.split(".")[1] for module in LINEARS],
        "layers_to_transform": list(range(FIRST_LAYER, FIRST_LAYER + layer_count)),
        "layers_pattern": "layers",
    }
    own = {"id": folder.name, "owner": options.owner, "datanet": Path(options.datanet).name}
    for name, content in (("adapter_config.json", config), ("tallygate.json", own)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        assert values.dtype == np.float16
        header[name] = {"dtype": "F16", "shape": values.shape, "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values).tobytes())


if __name__ == "__main__":
    main()
