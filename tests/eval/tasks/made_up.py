"""Made-up languages in several scripts, a tokenizer that has learned them, and networks that were never trained."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.likelihood import Scorer

LETTERS = {
    "Latn": ("bdfgklmnprstvz", "aeiou"),
    "Cyrl": ("бвгджзклмнпрст", "аеиоу"),
    "Arab": ("بتجدرسعفقكلمن", "اوي"),
    "Deva": ("कखगचजटतदनपबमरलस", "ािीुो"),
    "Thai": ("กขคงจชดตทนบปมยรลวส", "าิีุู"),
    "Ethi": ("ለመረሰቀበተነከወ", "ሊሚሪሲቂቢ"),
    "Hans": ("天地人水火山石田土日月", "木林森心手口目耳足"),
}
UNSPACED = ("Thai", "Hans")


@dataclass(frozen=True)
class Words:
    """A made-up language in a script, of which texts are drawn."""

    script: str
    draw: random.Random

    def words(self, low: int, high: int) -> str:
        """Return so many words."""
        given = lexicon(self.script)
        drawn = [self.draw.choice(given) for _ in range(self.draw.randint(low, high))]
        return ("" if self.script in UNSPACED else " ").join(drawn)

    def sentence(self, low: int = 3, high: int = 6) -> str:
        """Return a sentence."""
        text = self.words(low, high)
        return f"{text[0].upper()}{text[1:]}."

    def answers(self, number: int) -> list[str]:
        """Return answers of unlike lengths, of which any may be the right one."""
        return [self.words(1, 5) for _ in range(number)]


@cache
def lexicon(script: str) -> list[str]:
    """Return the words of a script."""
    draw = random.Random(script)
    first, second = LETTERS[script]
    return ["".join(draw.choice(first) + draw.choice(second) for _ in range(draw.randint(1, 3))) for _ in range(120)]


def texts() -> Iterator[str]:
    """Yield sentences in all scripts."""
    for script in LETTERS:
        words = Words(script, random.Random(script))
        for _ in range(300):
            yield words.sentence()


def untrained(seed: int, vocab_size: int) -> Scorer:
    """Return a tiny network that was never trained."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return Scorer(LlamaForCausalLM(config).eval())


def made_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes that has learned the made-up words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
