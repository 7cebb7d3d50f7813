"""How often each stream is read: planned, and by a checkpoint."""

from pathlib import Path

import pytest

from configs.base import UserError
from tests.training.data.test_batches import config, corpus
from tests.training.init.initial_files import RECORD
from training.data.batches import Batches
from training.data.epochs import StreamEpochs, epochs_read, epochs_rows, plan_epochs
from training.data.tokens_read import count_tokens_read
from training.records import Position


def test_a_plan_counts_what_a_training_reads(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    found = {one.stream: one for one in plan_epochs(made, config(num_steps=12))}
    batches, read = Batches(made, config(num_steps=12)), dict.fromkeys(found, 0)
    for step in range(12):
        for stream, targets in batches.batch((range(5 * step, 5 * step + 5),)).targets_by_stream.items():
            read[stream] += targets
    assert {stream: one.tokens_read for stream, one in found.items()} == read
    assert {stream: one.num_tokens for stream, one in found.items()}["web/en"] == 29
    assert found["web/en"].epochs == pytest.approx(read["web/en"] / 29)
    assert sum(read.values()) > 3 * sum(one.num_tokens for one in found.values()), "it is read again and again"


def test_a_cap_is_seen_in_the_plan(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    even = {"temperature": 1e9, "source_weights": {"web": 9, "science": 1}}
    budget = {"budget_tokens": 12 * 5 * 8}
    free = {one.stream: one.epochs for one in plan_epochs(made, config(num_steps=12, mixture=even))}
    mixture = even | budget | {"max_epochs": 8}
    capped = {one.stream: one.epochs for one in plan_epochs(made, config(num_steps=12, mixture=mixture))}
    assert free["web/sw"] > 15 and capped["web/sw"] < 10
    assert capped["web/en"] > free["web/en"]


def test_steps_on_other_data_read_nothing_of_these(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    all_steps, last = plan_epochs(made, config(num_steps=12)), plan_epochs(made, config(num_steps=4))
    assert plan_epochs(made, config(num_steps=12), steps_on_other_data=8) == last != all_steps


def test_a_checkpoint_says_what_was_read(tmp_path: Path) -> None:
    order = Batches(corpus(tmp_path), config()).order_record()
    position = Position(next_place=40)
    read = count_tokens_read(order, position)
    found = epochs_read(RECORD.model_copy(update={"order": order, "tokens_read": read, "position": position}))
    assert {one.stream: one.tokens_read for one in found} == read


def test_each_stream_has_a_row_those_read_most_often_first(tmp_path: Path) -> None:
    found = plan_epochs(corpus(tmp_path), config(num_steps=12, mixture={"temperature": 1e9}))
    rows = epochs_rows(found)
    whole = sum(one.tokens_read for one in found) / sum(one.num_tokens for one in found)
    assert rows[0] == ("epochs", f"{whole:.2f} times all text; 3 of 4 streams more than 4 times")
    assert [name for name, _ in rows[1:]] == [one.stream for one in sorted(found, key=lambda one: -one.epochs)]
    (swahili,) = (one for one in found if one.stream == "web/sw")
    times = f"{swahili.epochs:.2f} times: {swahili.tokens_read:,} tokens read of {swahili.num_tokens:,}"
    assert ("web/sw", times) in rows


def test_of_hundreds_of_streams_the_rest_is_counted() -> None:
    found = [StreamEpochs(f"web/l{number:03}", 100, 100 * number) for number in range(1, 301)]
    rows = epochs_rows(found)
    assert len(rows) == 14
    assert rows[1] == ("web/l300", "300.00 times: 30,000 tokens read of 100")
    assert rows[-1] == ("288 more", "the least read is web/l001: 1.00 times: 100 tokens read of 100")


def test_streams_that_are_read_many_times_are_counted() -> None:
    found = [StreamEpochs(f"web/{code}", 100, read) for code, read in (("en", 100), ("sw", 401), ("yo", 400))]
    assert epochs_rows(found)[0] == ("epochs", "3.00 times all text; 1 of 3 streams more than 4 times")


def test_a_corpus_that_the_settings_do_not_go_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_epochs leaves"):
        plan_epochs(corpus(tmp_path), config(num_steps=2, mixture={"budget_tokens": 4_000, "max_epochs": 1}))
