"""Tokenizers of the kinds that other models have, in small, with the files that are beside them."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.data_prep.tokenizer.toy_tokenizer import SENTENCES

LINES = [text for language, text in SENTENCES if language in ("en", "fr", "de", "es", "sq")]
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"


def train_model(**settings: Any) -> bytes:
    """Train a SentencePiece model as its defaults have it, with `<s>` and `</s>`."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, minloglevel=2, num_threads=1, **settings
    )
    return model.getvalue()


def qwen_like(directory: Path, **config: Any) -> Path:
    """Byte-level BPE; no piece begins a text, those of chats are special, `<think>` is not; more rows than pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(CONTRACTIONS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
        "model_max_length": 131072,
    }
    return _save(directory, tokenizer, settings, {"model_type": "qwen2", "vocab_size": 640} | config)


def llama_like(directory: Path, **config: Any) -> Path:
    """SentencePiece BPE with byte fallback in a tokenizer.json, as Llama 2 has it: `<s>` begins a text."""
    from data_prep.tokenizer.hf_export import convert_sentencepiece

    tokenizer = convert_sentencepiece(llama_model())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False},
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    return _save(directory, tokenizer, settings, {"model_type": "llama", "vocab_size": 700} | config)


def llama_model() -> bytes:
    return train_model(
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        split_digits=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
    )


def tiktoken_like(directory: Path) -> Path:
    """Byte-level BPE that takes a whole word that is a piece, as Llama 3 and what comes from tiktoken have it."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(CONTRACTIONS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    begin = processors.TemplateProcessing("<|begin_of_text|> $A", None, [("<|begin_of_text|>", 500)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>"}
    return _save(directory, tokenizer, settings | {"eos_token": "<|end_of_text|>"}, None)


def unigram(directory: Path) -> Path:
    """Unigram as T5 has it: it normalises, writes no bytes, and finds `</s>` in text as it finds any piece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    settings = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 0}
    return _save(directory, tokenizer, settings, {"model_type": "t5", "eos_token_id": 1})


def gpt_neox_like(directory: Path) -> Path:
    """Byte-level BPE that puts a space before a text, with runs of spaces as added pieces; one piece for all roles."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<|endoftext|>", "<|padding|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    settings = {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": True}
    return _save(directory, tokenizer, settings | roles, {"model_type": "gpt_neox"})


def gemma_model(directory: Path) -> Path:
    """A directory that has no tokenizer.json, as Gemma's: BPE without a first space, with symbols of its own."""
    directory.mkdir(parents=True)
    model = train_model(
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<2mass>", "\n\n"],
        control_symbols=["<start_of_turn>"],
        pad_id=3,
    )
    (directory / "tokenizer.model").write_bytes(model)
    settings = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def _save(directory: Path, tokenizer: Tokenizer, settings: dict[str, Any], config: dict[str, Any] | None) -> Path:
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory
