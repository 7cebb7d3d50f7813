"""The formula of bits per byte, and the summary of scores."""

import math

import pytest

from eval.manifests import Accuracy, BitsPerByte, MultipleChoice, Scores, bits_per_byte


def test_bits_per_byte_of_a_uniform_guess_over_bytes_is_eight() -> None:
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8)


def test_bits_per_byte_counts_bytes_not_characters_or_tokens() -> None:
    text = "ខ្មែរ"
    assert bits_per_byte(math.log(2), len(text.encode())) == pytest.approx(1 / 15)


def scores(**bits: float) -> Scores:
    by_language = {name: BitsPerByte(num_documents=1, num_bytes=9, bits_per_byte=value) for name, value in bits.items()}
    task = MultipleChoice(
        chance=0.25, total=Accuracy(num_questions=8, num_right=3), by_language={}, num_left_out=0, lm_eval_version="1"
    )
    return Scores(step=1, bits_per_byte=by_language, bits_per_byte_by_stream={}, multiple_choice=task)


def test_every_language_counts_the_same_in_the_mean() -> None:
    assert scores(en=1.0, sw=2.0, lo=6.0).mean_bits_per_byte == pytest.approx(3)


def test_summary_names_the_best_and_the_worst_language() -> None:
    summary = scores(en=1.0, sw=2.0, lo=6.0).summary()
    assert "best en 1.00, worst lo 6.00" in summary
    assert "37.5% (chance 25%)" in summary
    assert "\n" not in summary
