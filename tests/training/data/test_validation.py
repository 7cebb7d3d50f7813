"""Which held-out samples a training is validated on."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.training.ranks import tiny_config, tiny_corpus
from training.data.validation import choose_validation_set


def test_every_stream_gets_equally_many_as_far_as_its_text_lasts(tmp_path: Path) -> None:
    """Each of the three streams has 60 tokens held out, so 59 targets in four sequences of 16."""
    found = choose_validation_set(tiny_corpus(tmp_path), tiny_config())
    assert found is not None
    assert found.streams == ["science/en", "web/de", "web/sw"]
    assert found.batch.stream.tolist() == [0, 1, 2], "one each, although 1% of two steps of five is less"
    assert (found.sequence_length, found.share) == (16, pytest.approx(0.37 * 3 / 10))
    whole = tiny_config(validation={"max_share": 1.0})
    found = choose_validation_set(tiny_corpus(tmp_path), whole)
    assert found is not None
    assert found.batch.stream.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.batch.index.tolist() == [0, 1, 2, 3] * 3
    assert found.batch.num_targets == 3 * 59
    assert found.bytes_per_token == {"science/en": 3.0, "web/de": 3.0, "web/sw": 3.0}


def test_the_sample_costs_no_more_than_its_share(tmp_path: Path) -> None:
    """A forward pass over r rows between steps of b rows costs 0.37 r / b: 2.3% of 2 x 50 rows is six."""
    config = tiny_config(global_batch_size=50, validation={"max_share": 0.023}, num_steps=2)
    found = choose_validation_set(tiny_corpus(tmp_path), config)
    assert found is not None
    assert len(found.batch.stream) == 6
    assert found.share == pytest.approx(0.0222)


def test_with_a_batch_ramp_the_first_steps_count(tmp_path: Path) -> None:
    """Five steps of 10 sequences and five of 20 before the first validation, not ten of 100."""
    ramp = {"start": 10, "increment": 10, "steps_per_increment": 5}
    settings = {"global_batch_size": 100, "num_steps": 200, "checkpoint_every_steps": 10, "batch_ramp": ramp}
    found = choose_validation_set(tiny_corpus(tmp_path), tiny_config(**settings, validation={"max_share": 0.02}))
    assert found is not None
    assert len(found.batch.stream) == 6
    assert found.share == pytest.approx(0.37 * 6 / 150)


def test_many_streams_have_shorter_sequences_rather_than_more_time(tmp_path: Path) -> None:
    """1% of 12 steps of ten sequences of 64 allows forward passes over 207 tokens: 64 for each of three streams."""
    for sequence_length, every, length in ((64, 12, 64), (64, 8, 44), (64, 1, 16)):
        steps = {"num_steps": 12, "checkpoint_every_steps": every, "global_batch_size": 10}
        config = tiny_config(sequence_length=sequence_length, **steps)
        found = choose_validation_set(tiny_corpus(tmp_path), config)
        assert found is not None
        assert found.sequence_length == length
        assert len(found.batch.stream) == 3
        assert (found.share <= 0.01) == (every > 1)


def test_a_larger_sample_holds_a_smaller_one(tmp_path: Path) -> None:
    shares = (0.1, 0.2, 0.6, 1.0)
    samples = []
    for share in shares:
        found = choose_validation_set(tiny_corpus(tmp_path), tiny_config(validation={"max_share": share}))
        assert found is not None
        samples.append(set(zip(found.batch.stream.tolist(), found.batch.index.tolist(), strict=True)))
    assert samples == sorted(samples, key=len)
    assert all(small <= large for small, large in pairwise(samples))


def test_nothing_is_validated_on_if_nothing_is_held_out_or_wanted(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    assert choose_validation_set(corpus, tiny_config(validation=None)) is None
    bare = corpus.manifest.model_copy(update={"validation": ()})
    assert choose_validation_set(type(corpus)(tmp_path, bare), tiny_config()) is None
