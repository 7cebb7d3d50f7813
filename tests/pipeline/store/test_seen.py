"""What a checkpoint says that it has read, on the command line."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokens.find_document import find_document
from pipeline.store.artifact import Input, commit
from tests.data_prep.corpora import clean_config, cleaned, eld_sentences, held_out, kept, source, write_lines
from tests.data_prep.toy_tokens import Made, learned, tokenized
from tests.pipeline.toys import record_of
from tests.training.ranks import tiny_config
from training.data.batches import Batches
from training.data.position import skip_places, take_places
from training.data.token_stream import open_token_streams
from training.records import CheckpointRecord, Position

ROOT = Path(__file__).parents[3]
BATCH = 4
NUM_STEPS = 150
SKIPPED = (40, 64)
Concord = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A store with a clean corpus and its tokens."""
    store = tmp_path_factory.mktemp("seen") / "store"
    rows = [(language, text) for language, text in eld_sentences(6) if language in ("de", "sw", "en", "fr")]
    web, books = write_lines(store / "web.jsonl", rows[9:]), write_lines(store / "books.jsonl", rows[:9])
    config = clean_config(source("web", web), source("books", books), held_out={"share": 0.2})
    corpus = cleaned(store / "clean-1", config)
    text = eld_sentences(9)
    other = cleaned(store / "clean-2", clean_config(source("web", write_lines(store / "c.jsonl", text))))
    found = tokenized(store / "tokenize-1", corpus, learned(store / "tokenizer-1", other))
    commit(corpus.dir, record_of("clean", corpus.manifest))
    inputs = {"corpus": Input(artifact="clean-1", fingerprint="")}
    commit(found.tokens.dir, record_of("tokenize", found.tokens.manifest, inputs=inputs))
    return found


@pytest.fixture(scope="module")
def batches(made: Made) -> Batches:
    return Batches(made.tokens, tiny_config(global_batch_size=BATCH))


def places_read(position: Position) -> list[int]:
    gone = {place for first, stop in position.skipped for place in range(first, stop)}
    return [place for place in range(position.next_place) if place not in gone]


def checkpoint_of(batches: Batches, **changes: Any) -> CheckpointRecord:
    """After some steps, with some places left out."""
    _, position = take_places(skip_places(Position(), *SKIPPED), NUM_STEPS * BATCH)
    counted: Counter[str] = Counter()
    for place in places_read(position):
        counted.update(batches.batch((range(place, place + 1),)).targets_by_stream)
    plain: dict[str, Any] = {
        "step": NUM_STEPS,
        "num_updates": NUM_STEPS,
        "num_tokens": counted.total(),
        "tokens_read": counted,
        "position": position,
        "order": batches.order_record(),
        "global_batch_size": BATCH,
        "num_rollbacks": 1,
        "loss": 3.0,
        "world_size": 2,
        "zero_stage": 1,
        "shapes": {},
        "files": {},
    }
    return CheckpointRecord.model_validate(plain | changes)


@pytest.fixture
def checkpoint(made: Made, batches: Batches) -> Path:
    return put(made.corpus.dir.parent / "train-1", checkpoint_of(batches))


def put(training: Path, record: CheckpointRecord) -> Path:
    directory = training / "checkpoints" / f"step-{record.step:08d}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "checkpoint.json").write_text(record.model_dump_json())
    return directory


def test_the_table_has_every_stream_and_the_total(checkpoint: Path, concord: Concord, batches: Batches) -> None:
    record = checkpoint_of(batches)
    code, out, err = concord("seen", checkpoint)
    assert (code, err) == (0, "")
    head, *rows, last = out.splitlines()
    assert head.split() == ["source", "language", "tokens", "read", "share", "epochs"]
    shown = {f"{source}/{language}": tokens for source, language, tokens, _, _ in map(str.split, rows)}
    assert shown == {name: f"{count:,}" for name, count in record.tokens_read.items()}
    assert last == (f"train-1, step 150: {record.num_tokens:,} tokens in 600 samples; roll-backs left out 24 more")


def test_json_has_the_same_and_epochs_of_a_stream_grow_with_what_is_read(
    checkpoint: Path, concord: Concord, batches: Batches
) -> None:
    record = checkpoint_of(batches)
    found = json.loads(concord("seen", checkpoint, "--json")[1])
    assert (found["step"], found["tokens_read"], found["samples_left_out"]) == (150, record.num_tokens, 24)
    there = {f"{stream.source}/{stream.language}": stream.num_tokens - 1 for stream in record.order.streams}
    for seen in found["streams"]:
        name = f"{seen['source']}/{seen['language']}"
        assert seen["tokens_read"] == record.tokens_read[name]
        assert seen["epochs"] == pytest.approx(record.tokens_read[name] / there[name])
    assert sum(seen["share"] for seen in found["streams"]) == pytest.approx(1)


def test_a_finished_training_is_its_last_checkpoint(checkpoint: Path, concord: Concord) -> None:
    training = checkpoint.parents[1]
    expected = concord("seen", checkpoint)
    config = {"init_from": {"path": "hub/model", "mode": "weights"}}
    commit(training, record_of("train", {"checkpoint": f"checkpoints/{checkpoint.name}"}, config=config))
    code, out, _ = concord("seen", training)
    (training / "record.json").unlink()
    assert code == 0
    assert out == expected[1] + "it began with the weights of hub/model; what those had read is not counted\n"


def steps_that_read(batches: Batches, made: Made, document: str, position: Position) -> tuple[int, list[int]]:
    """Tokens of it that were targets, and steps, by walking through what was read and looking for its tokens."""
    (where,) = find_document(document, corpus=made.corpus, tokens=made.tokens)
    stream = [stream.key for stream in batches.streams].index(f"{where.source}/{where.language}")
    total, steps = 0, set()
    for number, place in enumerate(places_read(position)):
        batch = batches.batch((range(place, place + 1),))
        first = int(batch.index[0]) * 16 + 1
        own = len(range(max(first, where.start), min(first + batch.num_targets, where.stop)))
        if batch.stream[0] == stream and own:
            total += own
            steps.add(number // BATCH + 1)
    return total, sorted(steps)


def test_a_document_is_said_to_be_read_in_the_steps_that_read_it(
    checkpoint: Path, concord: Concord, batches: Batches, made: Made
) -> None:
    position = checkpoint_of(batches).position
    for document in kept(made.corpus)[::8]:
        code, out, _ = concord("seen", checkpoint, "--document", document.id, "--json")
        assert code == 0
        (found,) = json.loads(out)["found"]
        total, steps = steps_that_read(batches, made, document.id, position)
        assert sum(epoch["tokens_read"] for epoch in found["epochs"]) == total
        assert sorted({step for epoch in found["epochs"] for step in epoch["steps"]}) == steps
        assert all(0 < epoch["tokens_read"] <= found["num_tokens"] for epoch in found["epochs"])
        assert total > found["num_tokens"], "several epochs"


def test_a_document_is_answered_in_words(checkpoint: Path, concord: Concord, made: Made) -> None:
    document = kept(made.corpus)[0]
    code, out, _ = concord("seen", checkpoint, "--document", document.id)
    assert code == 0
    first, second, head, *rows = out.splitlines()
    assert first.startswith(f"{document.id}: ") and first.endswith(f"of {document.source}/{document.language}")
    assert second.startswith("read in full in ") and second.endswith(" in all, by train-1, step 150")
    assert head.split() == ["epoch", "tokens", "read", "steps"]
    assert [row.split()[0] for row in rows][:2] == ["1", "2"]


def test_a_document_that_has_not_come_yet_is_not_read(made: Made, batches: Batches, concord: Concord) -> None:
    record = checkpoint_of(batches, step=0, num_tokens=0, position=Position())
    directory = put(made.corpus.dir.parent / "train-2", record)
    code, out, _ = concord("seen", directory, "--document", kept(made.corpus)[0].id)
    assert code == 0
    assert out.splitlines()[1:] == ["not read by train-2, step 0"]


def test_steps_are_left_open_where_the_batch_has_changed(made: Made, batches: Batches, concord: Concord) -> None:
    directory = put(made.corpus.dir.parent / "train-3", checkpoint_of(batches, step=200))
    document = kept(made.corpus)[0].id
    _, out, _ = concord("seen", directory, "--document", document)
    assert "places in the order (steps are not known" in out
    (found,) = json.loads(concord("seen", directory, "--document", document, "--json")[1])["found"]
    assert all(epoch["steps"] is None and epoch["places"] for epoch in found["epochs"])


def one_sentence(result: tuple[int, str, str], says: str) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("concord: ") and err.count("\n") == 1
    assert says in err


def test_a_held_out_document_is_one_sentence(checkpoint: Path, concord: Concord, made: Made) -> None:
    document = held_out(made.corpus)[0].id
    one_sentence(concord("seen", checkpoint, "--document", document), "it was held out for evaluation")


def test_what_is_no_checkpoint_is_one_sentence(tmp_path: Path, concord: Concord, made: Made) -> None:
    one_sentence(concord("seen", made.corpus.dir), f"{made.corpus.dir} is neither a checkpoint")
    one_sentence(concord("seen", tmp_path), f"{tmp_path} holds no run, checkpoint or artifact")
    one_sentence(concord("seen", tmp_path / "nowhere"), "nowhere does not exist")


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', "[]", "\xff"])
def test_a_damaged_record_is_one_sentence(tmp_path: Path, concord: Concord, text: str) -> None:
    (tmp_path / "checkpoint.json").write_text(text, encoding="latin-1")
    one_sentence(concord("seen", tmp_path), "checkpoint.json is not a record that this version")


def test_an_order_that_does_not_give_the_tokens_counted_is_refused(tmp_path: Path, batches: Batches, concord: Concord):
    directory = put(tmp_path / "store" / "train-4", checkpoint_of(batches, num_tokens=7))
    one_sentence(concord("seen", directory), "says that 7 tokens were read, but its order gives")


def test_a_checkpoint_away_from_its_store_still_tells_its_tokens(tmp_path: Path, batches: Batches, concord: Concord):
    directory = put(tmp_path / "store" / "train-5", checkpoint_of(batches))
    assert concord("seen", directory)[0] == 0
    away = concord("seen", directory, "--document", "web/x")
    one_sentence(away, f"{tmp_path / 'store' / 'tokenize-1'}, which the training read, is not there")


def test_the_command_needs_no_heavy_library(checkpoint: Path) -> None:
    arguments = ["concord", "seen", str(checkpoint)]
    program = (
        f"import atexit, sys, pipeline.cli.app; sys.argv = {arguments}; atexit.register(lambda: print(*sys.modules))"
    )
    command = [sys.executable, "-c", f"{program}; pipeline.cli.app.main()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "training.data.tokens_read" in loaded
    assert not loaded & {"torch", "ray", "deepspeed", "transformers", "sentencepiece", "tokenizers", "wandb"}


@pytest.mark.parametrize("step", [1, 3, 75, 150, 200])
def test_a_step_names_the_documents_that_it_reads(
    made: Made, checkpoint: Path, batches: Batches, concord: Concord, step: int
) -> None:
    code, out, err = concord("sample", "--at", str(step), "--json", checkpoint)
    assert (code, err) == (0, "")
    record = checkpoint_of(batches)
    _, later = take_places(record.position, 100 * BATCH)
    places = places_read(later)[(step - 1) * BATCH : step * BATCH]
    samples = json.loads(out)["samples"]
    assert [sample["place"] for sample in samples] == places
    streams, length = open_token_streams(made.tokens), record.order.sequence_length
    for sample in samples:
        (batch,) = batches.batch((range(sample["place"], sample["place"] + 1),)).index.tolist()
        assert batch == sample["index"]
        stream = streams[sample["source"], sample["language"]]
        read = stream.read(sample["index"] * length, length + 1).tolist()
        told: list[int] = []
        for part in sample["documents"]:
            (where,) = find_document(part["document"], corpus=made.corpus, tokens=made.tokens)
            told += stream.read(where.start + part["start"], part["stop"] - part["start"]).tolist()
            assert part["num_tokens"] == where.stop - where.start
        assert told == read
    words = concord("sample", "--at", str(step), checkpoint)[1]
    assert all(part["document"] in words for sample in samples for part in sample["documents"])


def test_a_step_after_the_checkpoint_is_said_to_be_ahead(checkpoint: Path, concord: Concord) -> None:
    assert "step 151 of train-1, as it will be read after step 150: " in concord("sample", "--at", "151", checkpoint)[1]
    assert "step 150 of train-1: " in concord("sample", "--at", "150", checkpoint)[1]


def test_a_finished_training_reads_no_step_after_its_last(made: Made, batches: Batches, concord: Concord) -> None:
    training = made.corpus.dir.parent / "train-9"
    put(training, checkpoint_of(batches))
    config = tiny_config(global_batch_size=BATCH, num_steps=150).model_dump(mode="json")
    manifest = {"checkpoint": "checkpoints/step-00000150"}
    commit(training, record_of("train", manifest, config=config))
    assert concord("sample", "--at", "150", training)[0] == 0
    one_sentence(concord("sample", "--at", "151", training), "--at 151: train-9 ends with step 150")


def test_a_step_that_is_none_is_one_sentence(checkpoint: Path, concord: Concord) -> None:
    assert "--at 0: steps are counted from 1" in concord("sample", "--at", "0", checkpoint)[2]
