"""The corpus and the tokenizer that the tests of this folder share."""

import pytest

from configs.base import Artifact
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from tests.data_prep.tokenizer.toy_tokenizer import make_corpus, train


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact[CleanCorpus]:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, corpus: Artifact[CleanCorpus]) -> Artifact[TrainedTokenizer]:
    return train(tmp_path_factory.mktemp("tokenizer"), corpus)
