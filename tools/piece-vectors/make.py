"""Writes a tiny SentencePiece vocabulary and the ids that sentencepiece and tokenizers give with it."""

import base64
import io
import json
import random
import sys
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

CONTROLS = ["[INST]", "[/INST]", "[TOOL_CALLS]"]
WHOLES = ["<|note|>"]
WORDS = [
    "the", "gateway", " and", "  ", "\n", "\n\n", "\t", "wörld", "naïve", "日本", "русский", "हिन्दी", "😀", "👩‍👧",
    "\ufeff", "\u00a0", "e\u0301", "½", "aaaa", "0000", "<s>", "</s>", "[INST]", "<0x41>", "▁", "<|note|>", "\U0010ffff",
]
README = Path(__file__).parents[2] / "README.md"


def train():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(README.read_text().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=480,
        character_coverage=0.99,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        control_symbols=CONTROLS,
        user_defined_symbols=WHOLES,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def list_merges(pieces, vocab):
    """As transformers converts them: by score, then by the ids of the two parts."""
    merges = []
    for piece in pieces:
        splits = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
        known = [split for split in splits if split[0] in vocab and split[1] in vocab]
        known.sort(key=lambda split: (vocab[split[0]], vocab[split[1]]))
        merges += [(split, piece.score) for split in known]
    return [split for split, _ in sorted(merges, key=lambda merge: -merge[1])]


def make_tokenizers(model):
    parsed = sentencepiece_model_pb2.ModelProto.FromString(model)
    vocab = {piece.piece: i for i, piece in enumerate(parsed.pieces)}
    merges = list_merges(parsed.pieces, vocab)
    made = {}
    for form in ["legacy", "first", "always"]:
        bpe = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        tokenizer = Tokenizer(bpe)
        if form == "legacy":
            steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            tokenizer.normalizer = normalizers.Sequence(steps)
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", form, split=False)
        tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *CONTROLS])
        tokenizer.add_tokens([AddedToken(whole, normalized=False) for whole in WHOLES])
        made[form] = tokenizer
    return made


def make_texts():
    seeded = random.Random(7)
    texts = ["", " ", "Hello world", " Hello", "  Hello", "a", "é"]
    for _ in range(60):
        joint = seeded.choice(["", " "])
        texts.append(joint.join(seeded.choices(WORDS, k=seeded.randrange(1, 9))))
    return texts


def main():
    model = train()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    made = make_tokenizers(model)
    cases = []
    for text in make_texts():
        case = {"text": text, "sentencepiece": processor.encode(text)}
        for form, tokenizer in made.items():
            # Control tokens are parsed here, as they are in a prompt that a template wrote.
            case[form] = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append(case)
    json_of = {form: json.loads(tokenizer.to_str()) for form, tokenizer in made.items()}
    vectors = {
        "model": base64.b64encode(model).decode(),
        "tokenizerJson": json_of["legacy"],
        "metaspace": {form: json_of[form]["pre_tokenizer"] for form in ["first", "always"]},
        "cases": cases,
    }
    Path(sys.argv[1]).write_text(json.dumps(vectors, ensure_ascii=False) + "\n")


main()
