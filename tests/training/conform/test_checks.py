"""The checks pass on what is right, and fail on what is wrong."""

import pytest
import torch

from tests.training.conform.trials import (
    gradients_right_and_wrong,
    named,
    no_bench,
    on_bench,
    resume_right_and_wrong,
)
from tests.training.ranks import run_ranks
from training.conform import kernels
from training.conform.gradients import compare_gradients
from training.conform.memory import find_peak
from training.conform.scale import CPU, QUICK, choose_scale
from training.conform.synthetic_job import make_corpus
from training.data.token_stream import open_token_streams
from training.zero.config import CPU_BUCKET_ELEMENTS


def test_gradients_of_an_engine_pass_and_one_percent_too_long_fail(tmp_path):
    ((right, wrong),) = run_ranks(on_bench, 1, tmp_path, gradients_right_and_wrong)
    assert [check.passed for check in right] == [True, True]
    assert [check.passed for check in wrong] == [False, False]
    assert wrong[1].value == pytest.approx(1 / 0.99 - 1, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_off_fails_in_each_precision(precision):
    generator = torch.Generator().manual_seed(0)
    exact = {name: torch.randn(500, generator=generator, dtype=torch.float64) for name in ("a", "b")}
    rounded = {name: tensor.to(torch.bfloat16).double() for name, tensor in exact.items()}
    found = exact if precision == "fp32" else rounded
    assert all(check.passed for check in compare_gradients("g", found, exact, precision=precision))
    longer = {name: 1.01 * tensor for name, tensor in found.items()}
    assert compare_gradients("g", longer, exact, precision=precision)[1].passed is False
    shuffled = found | {"b": found["b"].roll(1)}
    error, _ = compare_gradients("g", shuffled, exact, precision=precision)
    assert error.passed is False
    assert "largest in b" in error.detail


def test_a_resume_is_bit_equal_and_one_that_changes_weights_is_seen(tmp_path):
    ((resumed, deterministic, changed),) = run_ranks(on_bench, 1, tmp_path, resume_right_and_wrong)
    assert (resumed.passed, resumed.value, "bit-equal" in resumed.detail) == (True, 0.0, True)
    assert (deterministic.passed, deterministic.value) == (True, 0.0)
    assert changed.passed is False
    assert changed.value == pytest.approx(1e-3, rel=0.5)


def test_attention_that_gives_other_numbers_fails_and_what_is_absent_says_why(tmp_path, monkeypatch):
    right = named(kernels.check_attention(no_bench(tmp_path)))
    assert right["attention sdpa"].passed is True
    assert right["attention sdpa time"].value > 0
    assert (right["attention varlen"].passed, right["attention varlen"].detail) == (None, "needs a GPU")
    original = kernels.run_packed

    def run_badly(module, rows, *, config, **options):
        result = original(module, rows, config=config, **options)
        if config._attn_implementation == "sdpa":
            result.last_hidden_state = result.last_hidden_state * 1.01
        return result

    monkeypatch.setattr(kernels, "run_packed", run_badly)
    wrong = named(kernels.check_attention(no_bench(tmp_path)))
    assert wrong["attention sdpa"].passed is False
    assert wrong["attention eager"].passed is True


def test_the_peak_is_of_what_is_held_and_an_untouched_bucket_counts_in_part():
    assert find_peak([100, 50, -120, 60, -90], num_trained=10) == 150
    bucket = 4 * CPU_BUCKET_ELEMENTS
    assert find_peak([100, bucket, -bucket, 20], num_trained=10) == 100 + 4 * 10


def test_a_made_up_corpus_has_as_many_tokens_as_its_manifest_says_and_is_the_same_again(tmp_path):
    one, other = (make_corpus(tmp_path / name, QUICK.small) for name in ("one", "other"))
    streams, again = open_token_streams(one), open_token_streams(other)
    assert sum(stream.num_tokens for stream in streams.values()) == one.manifest.num_tokens
    assert {key: stream.read(0, 50).tolist() for key, stream in streams.items()} == {
        key: stream.read(0, 50).tolist() for key, stream in again.items()
    }


def test_the_scale_follows_the_device():
    gib = 2**30
    assert choose_scale("cpu", memory_bytes=8 * gib, has_bf16=True, quick=False) is CPU
    assert choose_scale("cuda", memory_bytes=80 * gib, has_bf16=True, quick=True) is QUICK
    large, small = (
        choose_scale("cuda", memory_bytes=memory * gib, has_bf16=True, quick=False).large for memory in (80, 16)
    )
    assert (large.sequence_length, small.sequence_length) == (4096, 2048)
    old = choose_scale("cuda", memory_bytes=16 * gib, has_bf16=False, quick=False)
    assert (old.precisions, old.large.precision) == (("fp32",), "fp32")
