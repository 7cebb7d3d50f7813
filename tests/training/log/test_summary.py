"""What a run comes to."""

import math

import pytest

from configs.base import UserError
from tests.training.log.test_metrics_file import line
from tests.training.log.test_sessions_file import gang_start, session
from training.log.metrics_file import StepMetrics
from training.log.summary import LossSums, seconds_by_part, source_of, summarise_metrics, window_length
from training.manifests import TrainedModel
from training.records import Rollback

ROLLBACK = Rollback(at_step=9, to_step=5, skipped=(40, 72), reason="the loss rose", time=1.0)


def two_streams(step: int, *, sw: float, yo: float) -> StepMetrics:
    """A step with 10 targets of web/sw and 30 of books/yo, at these losses."""
    nats, targets = {"web/sw": 10 * sw, "books/yo": 30 * yo}, {"web/sw": 10, "books/yo": 30}
    return line(step, loss=(10 * sw + 30 * yo) / 40, nats=nats, targets=targets)


def model(**changes: object) -> TrainedModel:
    metrics = [two_streams(step, sw=5, yo=4) for step in range(1, 4)]
    values = {
        "architecture": "llama",
        "num_parameters": 4_000_000,
        "num_steps": 3,
        "num_tokens": 120,
        "checkpoint": "c",
        "unigram_entropy": 7.0,
    }
    summary = summarise_metrics(metrics, last_step=3, sessions=[], rollbacks=[])
    return TrainedModel.model_validate(values | dict(summary) | changes)


def sums(metrics: list[StepMetrics]) -> LossSums:
    whole = LossSums()
    for step in metrics:
        whole.add(step)
    return whole


def test_the_window_is_the_last_tenth_and_at_least_ten() -> None:
    assert [window_length(number) for number in (7, 50, 400)] == [7, 10, 40]


def test_losses_by_stream_are_weighted_by_targets() -> None:
    metrics = [
        line(1, nats={"web/sw": 10.0, "web/yo": 60.0}, targets={"web/sw": 5, "web/yo": 10}),
        line(2, nats={"web/sw": 5.0, "books/yo": 20.0}, targets={"web/sw": 10, "books/yo": 10}),
    ]
    assert sums(metrics).loss_by(lambda stream: stream) == {"books/yo": 2.0, "web/sw": 1.0, "web/yo": 6.0}
    assert sums(metrics).loss_by(source_of) == {"books": 2.0, "web": 3.0}


def test_bits_per_byte_are_all_bits_over_all_bytes() -> None:
    few = line(1, nats={"a/x": 80 * math.log(2)}, targets={"a/x": 8}, bits_per_byte=2.0)  # 80 bits, 40 bytes
    many = line(2, nats={"a/x": 60 * math.log(2)}, targets={"a/x": 8}, bits_per_byte=0.6)  # 60 bits, 100 bytes
    assert sums([few, many]).bits_per_byte == pytest.approx(1.0)
    assert sums([]).bits_per_byte == 0


def test_seconds_by_part_are_summed_over_steps() -> None:
    metrics = [line(1, seconds={"data": 1.0}), line(2, seconds={"data": 0.5, "checkpoint": 2.0})]
    assert seconds_by_part(metrics) == {"data": 1.5, "checkpoint": 2.0}


def test_a_summary_is_of_the_end_of_the_run() -> None:
    metrics = [two_streams(step, sw=9, yo=8) for step in range(1, 11)]
    metrics += [two_streams(step, sw=5, yo=4) for step in range(11, 21)]
    metrics[3] = metrics[3].model_copy(update={"tokens_per_second": 1e6, "mfu": 0.4})
    metrics[-1] = metrics[-1].model_copy(update={"num_skipped": 2, "useful_seconds": 60.0})
    events = [session(0), gang_start(1), gang_start(2)]
    summary = summarise_metrics(metrics, last_step=20, sessions=events, rollbacks=[ROLLBACK])
    assert summary["loss_by_language"] == {"sw": 5, "yo": 4}
    assert summary["loss_by_source"] == {"books": 4, "web": 5}
    assert (summary["first_loss"], summary["final_loss"]) == (8.25, 4.25)
    assert (summary["tokens_per_second"], summary["mfu"]) == (5.0, 0.4)
    assert (summary["num_restarts"], summary["num_skipped"], summary["rollbacks"]) == (1, 2, (ROLLBACK,))
    assert summary["goodput"] > 0


def test_steps_without_a_finite_loss_are_no_part_of_the_losses() -> None:
    bad = line(1, loss=math.nan, nats={"web/sw": math.nan}, targets={"web/sw": 5}, updated=False)
    metrics = [bad, *[two_streams(step, sw=5, yo=4) for step in range(2, 6)], bad.model_copy(update={"step": 6})]
    summary = summarise_metrics(metrics, last_step=6, sessions=[], rollbacks=[])
    assert (summary["first_loss"], summary["final_loss"], summary["loss_by_language"]["sw"]) == (4.25, 4.25, 5)
    with pytest.raises(UserError, match="no step of training had a finite loss"):
        summarise_metrics([bad], last_step=1, sessions=[], rollbacks=[])


def test_a_model_tells_of_troubles_only_if_there_were_any() -> None:
    assert model().summary().endswith("2.75 nats below the unigram entropy")
    troubled = model(goodput=0.912, num_restarts=2, num_skipped=1, rollbacks=(ROLLBACK,))
    assert troubled.summary().endswith("; goodput 91.2% with 2 restarts; 1 step skipped; 1 roll-back")


def test_a_model_reads_back_from_json() -> None:
    whole = model(rollbacks=(ROLLBACK,), mfu=0.5)
    assert TrainedModel.model_validate_json(whole.model_dump_json()) == whole


def test_the_last_finite_loss_stands_for_last_steps_without_any() -> None:
    bad = line(30, loss=math.nan, nats={"web/sw": math.nan}, targets={"web/sw": 5}, num_steps=12)
    summary = summarise_metrics([line(18, loss=3.5), bad], last_step=30, sessions=[], rollbacks=[])
    assert summary["final_loss"] == 3.5


def test_a_continued_training_is_summarised_over_its_own_steps() -> None:
    metrics = [two_streams(step, sw=9, yo=8) for step in range(501, 511)]
    metrics += [two_streams(step, sw=5, yo=4) for step in range(511, 521)]
    assert summarise_metrics(metrics, last_step=520, sessions=[], rollbacks=[])["loss_by_language"] == {
        "sw": 5,
        "yo": 4,
    }
