import json
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from configs.base import Artifact, Manifest
from configs.evaluation import ReportConfig
from data_prep.manifests import CleanCorpus, CorpusCount, Segment, TokenizedCorpus, TokenShard, UnreadableRecord
from eval.manifests import Accuracy, BitsPerByte, MultipleChoice, Scores
from pipeline.report.stage import Report, outcome, report
from pipeline.store.artifact import FileEntry, Input, Record, commit
from tests.training.log.test_metrics_file import line
from training.manifests import ExportedModel, TrainedModel
from training.records import Rollback

LANGUAGES = [f"l{i:02}" for i in range(64)]
EVIL = "<script>alert(1)</script>"
SHA = "ab" * 32


class _Page(HTMLParser):
    """Refuses unbalanced tags; collects text, ids and references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def values(self, *names: str) -> list[str]:
        return [value for key, value in self.attributes if key in names]


def _put(store: Path, step: str, manifest: Manifest, *sources: str, config: Any = None, files: Any = None) -> Any:
    path = store / f"{step}-0123456789ab"
    path.mkdir(parents=True)
    record = Record(
        step=step,
        stage=step,
        version=1,
        fingerprint=f"{len(step):064x}",
        config=config or {},
        observed={EVIL: SHA} if step == "clean" else None,
        inputs={name: Input(artifact=f"{name}-0123456789ab", fingerprint=SHA) for name in sources},
        manifest=json.loads(manifest.model_dump_json()),
        files=files or {},
        started=datetime(2026, 11, 14, 9, 31, tzinfo=UTC),
        seconds=72.4,
        attempts=1,
        placement={"num_ranks": 2},
        code="0123456789abcdef0123456789abcdef01234567",
        packages={"ray": "2.49.1"} | ({"torch": "2.8.0"} if step == "train" else {"torch": "2.9.0"}),
        host=EVIL,
    )
    commit(path, record)
    return Artifact(path, manifest)


def _corpus(languages: Sequence[str], dropped: int = 3) -> CleanCorpus:
    counts = [
        CorpusCount(
            source=EVIL,
            language=language,
            num_read=1013,
            num_kept=1000,
            num_held_out=10,
            dropped={"too_short": dropped},
            kept_bytes=123_456,
        )
        for language in languages
    ]
    unreadable = (UnreadableRecord(where="broken.jsonl:7", reason=EVIL),)
    return CleanCorpus(shards=(), held_out="held", counts=tuple(counts), unreadable=unreadable)


def _make(
    tmp_path: Path, *, languages: Sequence[str] = LANGUAGES, steps: int = 20, choice: bool = True
) -> dict[str, Any]:
    store = tmp_path / "store"
    segments = tuple(Segment(language=la, num_documents=9, num_tokens=4000, num_bytes=10_000) for la in languages)
    tokens = TokenizedCorpus(
        shards=(TokenShard(path="a", source=EVIL, segments=segments),), vocab_size=8192, eos_id=1, unigram_entropy=7.25
    )
    model = TrainedModel(
        architecture="llama",
        num_parameters=4_000_000,
        num_steps=steps,
        num_tokens=40_960,
        checkpoint="c",
        first_loss=9.0,
        final_loss=6.0,
        unigram_entropy=7.25,
        bits_per_byte=1.5,
        loss_by_language={language: 5 + i / 100 for i, language in enumerate(languages)},
        loss_by_source={EVIL: 6.0},
        tokens_per_second=6000.0,
        mfu=None,
        goodput=0.912,
        num_restarts=2,
        num_skipped=1,
        rollbacks=(Rollback(at_step=19, to_step=15, skipped=(1_000, 4_200), reason=EVIL, time=1.0),),
    )
    bits = {la: BitsPerByte(num_documents=10, num_bytes=99, bits_per_byte=1 + i) for i, la in enumerate(languages)}
    answers = {la: Accuracy(num_questions=2, num_right=1) for la in languages}
    total = Accuracy(num_questions=100, num_right=50)
    task = MultipleChoice(chance=0.25, total=total, by_language=answers, num_left_out=0, lm_eval_version="0.4.9")
    files = {"model/config.json": FileEntry(num_bytes=2, sha256=SHA)}
    made = {
        "corpus": _put(store, "clean", _corpus(languages)),
        "tokens": _put(store, "tokenize", tokens, "clean"),
        "model": _put(store, "train", model, "tokenize", config={"optimizer": {"learning_rate": 0.004}}),
        "scores": _put(
            store, "evaluate", Scores(bits_per_byte=bits, multiple_choice=task if choice else None), "train", "clean"
        ),
        "export": _put(
            store,
            "export",
            ExportedModel(path="model", dtype="float32", num_parameters=4_000_000, num_bytes=2),
            "train",
            files=files,
        ),
    }
    lines = [f"{line(i + 1, loss=9 - i / 10).model_dump_json()}\n" for i in range(steps)]
    (made["model"].dir / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return made


def _page(tmp_path: Path, made: dict[str, Any], title: str = "Title") -> str:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    written: Report = report(ReportConfig(title=title), **made, out=out, executor=None)  # type: ignore[arg-type]
    text = (out / written.path).read_text(encoding="utf-8")
    assert written.num_bytes == len(text.encode())
    return text


def test_report_is_one_balanced_page_that_asks_for_nothing_else(tmp_path: Path):
    text = _page(tmp_path, _make(tmp_path))
    page = _Page(text)
    assert page.open == []
    assert ("lang", "en") in page.attributes
    assert "script" not in page.tags
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", text)
    assert all(value.startswith("#") for value in page.values("href", "src", "xlink:href"))
    assert "prefers-color-scheme: dark" in text


def test_report_links_lead_somewhere_and_ids_are_unique(tmp_path: Path):
    page = _Page(_page(tmp_path, _make(tmp_path)))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value.removeprefix("#") for value in page.values("href")} <= set(ids)


def test_report_shows_every_language_in_data_losses_bits_and_choices(tmp_path: Path):
    words = _Page(_page(tmp_path, _make(tmp_path))).words
    assert all(words.count(language) >= 4 for language in LANGUAGES)


def test_report_escapes_what_comes_from_data(tmp_path: Path):
    page = _page(tmp_path, _make(tmp_path, languages=[EVIL, "sw"]), title=EVIL)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    assert EVIL in _Page(page).words


def test_report_holds_no_secret_and_is_else_as_it_was_drawn(tmp_path: Path, monkeypatch):
    made = _make(tmp_path, languages=["en", "sw"])
    page = _page(tmp_path, made, title="hunter2hunter2")
    monkeypatch.setenv("HF_TOKEN", "hunter2hunter2")
    assert _page(tmp_path, made, title="hunter2hunter2") == page.replace("hunter2hunter2", "[redacted]")


def test_report_tells_the_outcome_and_the_numbers(tmp_path: Path):
    text = " ".join(_Page(_page(tmp_path, _make(tmp_path, languages=["sw", "yo"]))).words)
    assert "6.00 nats a token, 1.25 below the unigram entropy" in text
    assert "1.500 bits per byte, the mean of 2 languages" in text
    assert "2,026 2,000 20 6 246,912 8,000 2.50" in text
    assert "50 of 100 right, 50.0% (95% interval 40.4% to 59.6%); chance gives 25.0%" in text
    assert "broken.jsonl:7" in text
    assert "optimizer.learning_rate 0.004" in text
    assert f"{SHA}  model/config.json" in text
    assert "2.8.0, 2.9.0" in text
    assert "Every document read is accounted for" in text


def test_report_tells_how_training_went(tmp_path: Path):
    made = _make(tmp_path, languages=["sw", "yo"])
    text = " ".join(_Page(_page(tmp_path, made)).words)
    assert "91.2% of the time of training went into steps that stand (goodput), with 2 restarts." in text
    assert "was 6,000 tokens a second; model FLOPs utilisation is unknown for this device." in text
    assert "Nats a token over the last 10 steps" in text
    assert "Loss by language, sw to yo" in text
    assert f"Roll-backs Reason At step Back to step Samples left out {EVIL} 19 15 3,200" in text
    assert "Gradient norm by step" in text


def test_report_of_a_smooth_training_has_its_mfu_and_no_roll_backs(tmp_path: Path):
    made = _make(tmp_path, languages=["sw"])
    smooth = made["model"].manifest.model_copy(update={"mfu": 0.413, "num_restarts": 0, "rollbacks": ()})
    made["model"] = Artifact(made["model"].dir, smooth)
    text = " ".join(_Page(_page(tmp_path, made)).words)
    assert "a model FLOPs utilisation (MFU) of 41.3% of the bf16 peak" in text
    assert "without a restart" in text
    assert "Roll-backs" not in text


def test_report_says_when_documents_were_lost(tmp_path: Path):
    made = _make(tmp_path, languages=["sw"])
    made["corpus"] = Artifact(made["corpus"].dir, _corpus(["sw"], dropped=1))
    assert "do not add up: 2 of the documents" in _page(tmp_path, made)


@pytest.mark.parametrize("steps", [0, 1])
def test_report_of_hardly_any_training_is_still_a_page(tmp_path: Path, steps: int):
    assert _Page(_page(tmp_path, _make(tmp_path, steps=steps, choice=False))).open == []


def test_report_names_an_ancestor_that_was_deleted(tmp_path: Path):
    made = _make(tmp_path)
    record = json.loads((made["tokens"].dir / "record.json").read_text())
    record["inputs"]["tokenizer"] = {"artifact": "train_tokenizer-ffffffffffff", "fingerprint": SHA}
    commit(made["tokens"].dir, Record.model_validate(record))
    text = " ".join(_Page(_page(tmp_path, made)).words)
    assert "train_tokenizer-ffffffffffff  (no longer in the store)" in text


def test_report_overwrites_what_a_killed_attempt_left(tmp_path: Path):
    made = _make(tmp_path)
    whole = _page(tmp_path, made)
    (tmp_path / "out" / "report.html").write_text("<html>half")
    assert _page(tmp_path, made) == whole


def test_report_moves_with_its_store(tmp_path: Path):
    made = _make(tmp_path)
    before = _page(tmp_path, made)
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    moved = {name: Artifact(tmp_path / "elsewhere" / a.dir.name, a.manifest) for name, a in made.items()}
    assert _page(tmp_path, moved) == before


def test_outcome_says_above_when_the_loss_is_worse_than_no_context(tmp_path: Path):
    made = _make(tmp_path)
    worse = made["model"].manifest.model_copy(update={"final_loss": 8.0})
    assert "0.75 above the unigram entropy" in outcome(worse, made["scores"].manifest)
