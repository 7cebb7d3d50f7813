"""A tokenizer and token shards of a small clean corpus, made by the stages themselves."""

from dataclasses import dataclass
from pathlib import Path

from configs.base import Artifact
from configs.data.stages import TokenizeConfig, TrainTokenizerConfig
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from data_prep.tokenizer.stage import train_tokenizer
from data_prep.tokens.stage import tokenize
from tests.data_prep.corpora import INLINE


@dataclass(frozen=True)
class Made:
    corpus: Artifact[CleanCorpus]
    tokenizer: Artifact[TrainedTokenizer]
    tokens: Artifact[TokenizedCorpus]


def tokenized(out: Path, corpus: Artifact[CleanCorpus], tokenizer: Artifact[TrainedTokenizer]) -> Made:
    tokens = tokenize(TokenizeConfig(), corpus=corpus, tokenizer=tokenizer, out=out, executor=INLINE)
    return Made(corpus, tokenizer, Artifact(out, tokens))


def learned(out: Path, corpus: Artifact[CleanCorpus]) -> Artifact[TrainedTokenizer]:
    config = TrainTokenizerConfig(vocab_size=2500, character_coverage=0.98)
    return Artifact(out, train_tokenizer(config, corpus=(corpus,), out=out, executor=INLINE))
