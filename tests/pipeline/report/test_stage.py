"""The page of the stage `report`: what it says, that it is valid, and that nothing in it is markup but ours."""

import errno
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import html5lib
import pytest

from cluster.host.files import sha256_of
from configs.base import RESUME_ME, Artifact, Manifest, UserError
from configs.evaluation import ReportConfig
from data_prep.manifests import CleanCorpus, CorpusCount, Segment, TokenizedCorpus, TokenShard, UnreadableRecord
from eval.manifests import BaselineScores, BitsPerByte, BitsPerSentence, CheckpointScores, Scores
from pipeline.report.page import TEMPLATES
from pipeline.report.stage import Report, check_report, observe_templates, outcome, report
from pipeline.run import Terminated
from pipeline.store.artifact import FileEntry, Input, Record, commit
from tests.eval.test_manifests import task
from tests.pipeline.report.test_generations import put
from tests.training.checkpoint.test_directory import record
from tests.training.log.test_metrics_file import line
from training.log.metrics_file import StepMetrics, Validation
from training.log.sessions_file import record_gang_start, record_session_start
from training.manifests import ExportedModel, TrainedModel
from training.records import OrderRecord, Rollback, StreamRecord

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
        if self.open and self.open[-1] not in ("style", "script"):
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
    return CleanCorpus(shards=(), held_out=(), counts=tuple(counts), unreadable=unreadable)


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
    bits = {
        la: BitsPerByte(num_documents=10, num_bytes=99, bits_per_byte=1 + i, low=0.5 + i, high=1.5 + i)
        for i, la in enumerate(languages)
    }
    by_stream = {f"{EVIL}/{language}": score for language, score in bits.items()}
    tasks = [task(f"{name}_{la}", la, value=0.5, low=0.4, high=0.6) for la in languages for name in ("xcopa", "arc")]
    tasks += [task("piqa", suite=EVIL, value=0.3), task(f"evil {EVIL}", value=None, failure=EVIL)]
    files = {"model/config.json": FileEntry(num_bytes=2, sha256=SHA)}
    made = {
        "corpus": _put(store, "clean", _corpus(languages)),
        "tokens": _put(store, "tokenize", tokens, "clean"),
        "model": _put(store, "train", model, "tokenize", config={"optimizer": {"learning_rate": 0.004}}),
        "scores": _put(
            store,
            "evaluate",
            Scores(
                step=20,
                precision="bfloat16",
                bits_per_byte=bits,
                bits_per_byte_by_stream=by_stream,
                bits_per_byte_by_domain={EVIL: bits[languages[0]]},
                tasks=tuple(tasks) if choice else (),
                lm_eval_version="0.4.9",
                untrained=tuple(
                    task(f"{name}_{la}", la, value=0.25, low=0.15, high=0.35)
                    for la in languages
                    for name in ("xcopa", "arc")
                ),
                curve=tuple(
                    CheckpointScores(
                        step=step,
                        num_tokens=step,
                        bits_per_byte=dict.fromkeys(languages, 9 / step),
                        tasks={"xcopa": 0.5},
                        failure=EVIL if step == 4 else "",
                    )
                    for step in (2, 4, 6)
                ),
            ),
            "train",
            "clean",
        ),
        "export": _put(
            store,
            "export",
            ExportedModel(path="model", dtype="float32", step=20, num_parameters=4_000_000, num_bytes=2),
            "train",
            files=files,
        ),
    }
    lines = [f"{line(i + 1, loss=9 - i / 10).model_dump_json()}\n" for i in range(steps)]
    (made["model"].dir / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return made


def _validate(made: dict[str, Any], losses: Mapping[int, float]) -> None:
    """Add validations, on text of two streams, to the metrics; and a checkpoint that says what was read."""
    path, model = made["model"].dir / "metrics.jsonl", made["model"]
    lines = [StepMetrics.model_validate_json(raw) for raw in path.read_text(encoding="utf-8").splitlines()]
    for i, metrics in enumerate(lines):
        if (loss := losses.get(metrics.step)) is not None:
            bits = {"web/sw": loss / 3, "web/new": 9.0}
            found = Validation(loss=loss, bits_per_byte=loss / 3, nats={}, targets={}, bits_per_byte_by_stream=bits)
            lines[i] = metrics.model_copy(update={"validation": found, "seconds": {"validation": 0.5, "forward": 1.5}})
        else:
            lines[i] = metrics.model_copy(update={"seconds": {"forward": 2.0}})
    path.write_text("".join(f"{metrics.model_dump_json()}\n" for metrics in lines), encoding="utf-8")
    streams = (StreamRecord(source="web", language="sw", num_tokens=101, num_bytes=300),)
    order = OrderRecord(seed=0, sequence_length=8, streams=streams, phases=(), tokens="tokenize-0")
    (model.dir / "c").mkdir()
    saved = record(20, world_size=1).model_copy(update={"order": order, "tokens_read": {"web/sw": 3000}})
    (model.dir / "c" / "checkpoint.json").write_text(saved.sealed().model_dump_json())
    last, best = losses[max(losses)], min(losses.values())
    told = {"validation_loss": last, "validation_bits_per_byte": last / 3, "best_validation_loss": best}
    update = told | {"best_checkpoint": "checkpoints/step-00000010"}
    made["model"] = Artifact(model.dir, model.manifest.model_copy(update=update))


def test_report_shows_over_fitting_and_how_often_each_stream_was_read(tmp_path: Path):
    made = _make(tmp_path)
    bare = _page(tmp_path, made)
    assert 'class="line second"' not in bare and "Times read" not in bare
    _validate(made, {5: 6.6, 10: 6.0, 15: 6.3, 20: 7.2})
    page = _page(tmp_path, made)
    words = _words(page)
    assert page.count('class="line second"') == 1
    assert "Held-out text, 7.20 at the end" in words
    assert "on held-out text at 7.20, 1.20 above its lowest" in words
    assert "held out 7.20, 2.400 bits a byte, lowest 6.00 after step 10" in words
    assert "Validation took 5.00% of the time" in words
    assert "web/sw 100 3,000 30.00 2.200 2.000 2.400" in words
    assert "web/new – – – 9.000 9.000 9.000" in words, "held out of, and not trained on"


def _page(
    tmp_path: Path, made: dict[str, Any], title: str = "Title", templates: Path | None = None, **config: Any
) -> str:
    """Write the page and return it."""
    return _report(tmp_path, made, ReportConfig(title=title, templates=templates and str(templates), **config))[1]


def _report(tmp_path: Path, made: dict[str, Any], config: ReportConfig) -> tuple[Report, str]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    given = {slot: (one,) if slot in ("corpus", "tokens") else one for slot, one in made.items()}
    written: Report = report(config, **given, out=out, executor=None)  # type: ignore[arg-type]
    text = (out / written.path).read_text(encoding="utf-8")
    assert written.num_bytes == len(text.encode())
    return written, text


def _words(page: str) -> str:
    """Return the text of a page, elements parted by a space, without one before a comma or a full stop."""
    return re.sub(r" ([,.;])", r"\1", " ".join(" ".join(_Page(page).words).split()))


def test_report_is_one_balanced_page_that_asks_for_nothing_else(tmp_path: Path):
    text = _page(tmp_path, _make(tmp_path))
    page = _Page(text)
    assert page.open == []
    assert ("lang", "en") in page.attributes
    assert page.tags.count("script") == 1 and page.values("src") == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(|fetch|XMLHttpRequest|import\(", text)
    links = [value for value in page.values("href", "src", "xlink:href") if not value.startswith("#")]
    assert links == ["../export-0123456789ab/model", "scores.csv", "checkpoints.csv", "scores.json"]
    assert "prefers-color-scheme: dark" in text


def test_report_links_lead_somewhere_and_ids_are_unique(tmp_path: Path):
    page = _Page(_page(tmp_path, _make(tmp_path)))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value.removeprefix("#") for value in page.values("href") if value.startswith("#")} <= set(ids)


def test_report_shows_every_language_in_data_losses_bits_and_choices(tmp_path: Path):
    words = _Page(_page(tmp_path, _make(tmp_path))).words
    assert all(words.count(language) >= 4 for language in LANGUAGES)


def test_report_escapes_what_comes_from_data(tmp_path: Path):
    page = _page(tmp_path, _make(tmp_path, languages=[EVIL, "sw"]), title=EVIL)
    assert page.count("<script") == page.count("<script>\n// Sorts") == 1
    assert page.count("&lt;script&gt;") >= 8
    assert EVIL in _Page(page).words


def test_report_is_valid_html_whatever_the_data_holds(tmp_path: Path):
    made = _make(tmp_path, languages=[EVIL, "</td>", "a&amp;b", '"'])
    parser = html5lib.HTMLParser(strict=True)  # raises at the first error
    parser.parse(_page(tmp_path, made, title="</title><b>"))


def test_report_of_200_languages_and_8_tasks_with_samples_is_less_than_a_megabyte(tmp_path: Path):
    languages = [f"l{i:03}" for i in range(200)]
    made = _make(tmp_path, languages=languages, steps=3000)
    tasks = [
        task(f"task{n}_{la}", la, value=0.5 + n / 20, low=0.4 + n / 20, high=0.6 + n / 20)
        for n in range(8)
        for la in languages[n:]
    ]
    sentence = BitsPerSentence(num_sentences=997, bits_per_sentence=123.4, low=120.0, high=126.0)
    update = {"tasks": tuple(tasks), "untrained": tuple(tasks[:9]), "languages": tuple(languages)}
    update |= {"bits_per_sentence": dict.fromkeys(languages, sentence)}
    made["scores"] = Artifact(made["scores"].dir, made["scores"].manifest.model_copy(update=update))
    put(made["scores"].dir, [(la, "ሀ" * 150, "ለ" * 300) for la in languages for _ in range(2)])
    page = _page(tmp_path, made)
    assert len(page.encode()) < 1e6
    words = _Page(page).words
    assert all(words.count(la) >= 6 for la in languages)
    assert page.count("<blockquote ") == 400
    assert len(re.findall(r'<td class="number h\d">', page)) == len(tasks)
    assert page.count('<td class="number missing">') >= 1600 - len(tasks)


def test_report_is_readable_on_a_phone_and_by_a_screen_reader(tmp_path: Path):
    made = _make(tmp_path, languages=["sw", "ru", "zh"])
    text = _page(tmp_path, made, prices={"cpu": 1})
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    tables = re.findall(r"<table>.*?</table>", text, re.DOTALL)
    box = r'<div class="scroll" tabindex="0" role="region" aria-label="[^"]+"><table>\n<caption>[^<]+</caption>'
    assert len(tables) == len(re.findall(box, text)) > 8
    heads = [head for table in tables for head in re.findall(r"<th[ >][^>]*", table)]
    assert all('scope="col"' in head or 'scope="row"' in head for head in heads)
    assert all(table.count("aria-sort=") <= 1 for table in tables)
    assert 'scope="col" class="number" aria-sort="descending">Languages</th>' in text
    drawings = re.findall(r'<svg class="chart" role="img"[^>]*>(<title>[^<]+</title>)?', text)
    assert drawings and all(drawings)


def test_report_shows_what_the_model_writes_as_text_of_the_sources(tmp_path: Path):
    made = _make(tmp_path, languages=["sw", "ru"])
    written, page = _report(tmp_path, made, ReportConfig())
    assert not written.contains_text and "data-contains-text" not in page
    put(made["scores"].dir, [("sw", f"Hapo {EVIL}", " zamani\n&"), (EVIL, "a", "b")])
    written, page = _report(tmp_path, made, ReportConfig())
    html5lib.HTMLParser(strict=True).parse(page)
    assert written.contains_text
    assert (
        '<blockquote lang="sw" dir="auto" translate="no" data-contains-text="true"><span class="soft">Hapo '
        "&lt;script&gt;alert(1)&lt;/script&gt;</span> zamani\n&amp;</blockquote>"
    ) in page
    assert re.findall(r'<section id="(\w+)"', page)[3:6] == ["tasks", "writing", "numbers"]


def test_report_has_the_cost_with_prices_and_names_what_is_counted(tmp_path: Path):
    made = _make(tmp_path, languages=["sw"])
    bare = _words(_page(tmp_path, made))
    assert "Device-hours by step" in bare and "Cost" not in bare and "cost of all" not in bare
    words = _words(_page(tmp_path, made, prices={"cpu": 2, "cuda": 3}, currency="EUR"))
    assert "cost of all steps 0.24 EUR" in words  # five steps of 72.4 s, training on two ranks
    assert "All 6 min 02 s – 0.121 0.24" in words
    assert "What earlier attempts took is not counted, and how long devices were idle is not known." in words
    assert "There is no price of cpu, which is not in the cost." in _words(_page(tmp_path, made, prices={"cuda": 3}))


def test_report_says_which_task_is_no_headline_and_which_languages_it_lacks(tmp_path: Path):
    made = _make(tmp_path, languages=["sw", "ru"])
    untrained = tuple(
        task(f"{name}_{la}", la, value=value, low=value - 0.05, high=value + 0.05)
        for name, value in (("xcopa", 0.6), ("arc", 0.25))
        for la in ("sw", "ru")
    )
    update = {"untrained": untrained, "languages": ("sw", "ru", "am")}
    made["scores"] = Artifact(made["scores"].dir, made["scores"].manifest.model_copy(update=update))
    words = _words(_page(tmp_path, made))
    assert "† xcopa: an untrained network scores 60.0% where a guess gives 25.0%" in words
    assert "xcopa has no score in 1 of 3 languages: am." in words
    assert "arc, 2 of 3 languages, chance 25% 50% (40 to 60%)" in words.partition("Load the model")[0]
    assert "xcopa" not in words.partition("Load the model")[0]
    assert "Not asked of an untrained network, so no headline: piqa." in words


def test_report_says_what_was_cut_off_and_where_less_is_better(tmp_path: Path):
    made = _make(tmp_path, languages=["sw", "ru"])
    bare = _words(_page(tmp_path, made))
    assert "their beginning was cut off" not in bare and "where less is better" not in bare
    pairs = task("pairs", value=0.3, low=0.2, high=0.4, chance=0.5, higher_is_better=False, num_truncated=5)
    made["scores"] = Artifact(made["scores"].dir, made["scores"].manifest.model_copy(update={"tasks": (pairs,)}))
    words = _words(_page(tmp_path, made))
    assert "pairs (less is better) – 30.0% 20.0% to 40.0% 50.0% 40.0% 1 of 1 – 8 5" in words
    assert "Cut off are requests that were longer than the model's context: their beginning was cut off." in words
    assert "(1 − chance), where less is better (chance − score) / chance: 0% for a guess" in words


def test_report_tells_checkpoints_whose_means_are_over_fewer_languages(tmp_path: Path):
    made = _make(tmp_path, languages=["sw", "ru"])
    numbers = {2: {"xcopa": 1, "arc": 2}, 3: {"arc": 2}, 4: {"xcopa": 1}, 6: {"xcopa": 2, "arc": 2}}
    curve = tuple(
        CheckpointScores(
            step=step,
            num_tokens=step,
            bits_per_byte={"sw": 1.0},
            tasks=dict.fromkeys(own, 0.5),
            num_languages=own,
            failed={} if step == 6 else {"xcopa_ru": EVIL},
            failure="",
        )
        for step, own in numbers.items()
    )
    made["scores"] = Artifact(made["scores"].dir, made["scores"].manifest.model_copy(update={"curve": curve}))
    words = _words(_page(tmp_path, made))
    assert "xcopa: the mean is over 2 languages, but over 1 at step 2, 4; there is none at step 3." in words
    assert "arc: the mean is over 2 languages, but there is none at step 4." in words
    made["scores"] = Artifact(made["scores"].dir, made["scores"].manifest.model_copy(update={"curve": curve[3:] * 2}))
    assert "the mean is over" not in _words(_page(tmp_path, made))


def test_report_tells_another_model_that_could_not_be_scored(tmp_path: Path):
    made = _make(tmp_path, languages=["sw"])
    good = BaselineScores(precision="", bits_per_byte=made["scores"].manifest.bits_per_byte, tasks=())
    lost = BaselineScores(precision="", bits_per_byte={}, tasks=(), failure="it is gone")
    for others in ({"lost": lost}, {"lost": lost, "good": good}):
        manifest = made["scores"].manifest.model_copy(update={"baselines": others})
        words = _words(_page(tmp_path, made | {"scores": Artifact(made["scores"].dir, manifest)}))
        assert "lost was not scored: it is gone" in words
        assert ("Measure This model good bits per byte" in words) == ("good" in others)


@pytest.mark.parametrize("secret", ["hunter2hunter2", "hunter<2>&\"hunter'2"])
def test_report_holds_no_secret_and_is_else_as_it_was_drawn(tmp_path: Path, monkeypatch, secret: str):
    made = _make(tmp_path, languages=["en", "sw"])
    page = _page(tmp_path, made, title=f"before {secret} after")
    assert f"before {secret} after" in _Page(page).words
    monkeypatch.setenv("HF_TOKEN", secret)
    hidden = _page(tmp_path, made, title=f"before {secret} after")
    assert "before [redacted] after" in _Page(hidden).words
    assert not any("hunter" in word for word in _Page(hidden).words)


@pytest.mark.parametrize(
    ("slots", "parts"),
    [
        (("model",), "training lineage time environment recipe check"),
        (("model", "export"), "model training lineage time environment recipe check"),
        (("model", "corpus"), "training data cleaning lineage time environment recipe check"),
        (("model", "tokens"), "training lineage time environment recipe check"),
        (("model", "corpus", "tokens"), "training data cleaning lineage time environment recipe check"),
        (("model", "scores"), "training bits tasks numbers lineage time environment recipe check"),
        (("corpus",), "data cleaning lineage time environment recipe check"),
        (("corpus", "tokens"), "data cleaning lineage time environment recipe check"),
        (("export",), "model lineage time environment recipe check"),
        (("scores",), "bits tasks numbers lineage time environment recipe check"),
        (("tokens",), "lineage time environment recipe check"),
    ],
)
def test_report_has_the_parts_of_the_inputs_it_was_given(tmp_path: Path, slots: tuple[str, ...], parts: str):
    made = _make(tmp_path, languages=["sw", "yo"])
    given = {slot: artifact for slot, artifact in made.items() if slot in slots}
    page = _page(tmp_path, given)
    html5lib.HTMLParser(strict=True).parse(page)
    assert re.findall(r'<section id="(\w+)"', page) == parts.split()
    assert re.findall(r'<li><a href="#(\w+)">', page) == parts.split()
    assert "None" not in _words(page)
    has_entropy = {"model", "tokens"} <= set(slots)
    assert ("its logarithm" in page) == ("ln(vocabulary)" in page) == has_entropy


def test_report_says_where_the_model_is_and_how_to_load_it(tmp_path: Path):
    page = _page(tmp_path, _make(tmp_path))
    assert "AutoModelForCausalLM.from_pretrained('export-0123456789ab/model')" in _words(page)
    assert "AutoTokenizer.from_pretrained('export-0123456789ab/model')" in _words(page)
    assert str(tmp_path) not in page


def test_report_tells_the_same_environment_once(tmp_path: Path):
    text = _words(_page(tmp_path, _make(tmp_path, languages=["sw"])))
    assert text.count("num_ranks") == 1
    assert f"Every step ran on host {EVIL} by code 0123456789ab, in the same placement." in text
    assert "Where the steps differ" not in text


def test_report_tells_by_steps_what_of_the_environment_differs(tmp_path: Path):
    made = _make(tmp_path, languages=["sw"])
    record = json.loads((made["model"].dir / "record.json").read_text())
    record |= {"host": "gpu-7", "placement": {"num_ranks": 2, "memory_bytes_per_rank": 23339286528}}
    commit(made["model"].dir, Record.model_validate(record))
    text = _words(_page(tmp_path, made))
    assert f"Steps Host Code Placement clean, tokenize, evaluate, export {EVIL} 0123456789ab –" in text
    assert "train gpu-7 0123456789ab memory_per_rank 21.7 GiB" in text
    assert "Every step ran by code 0123456789ab, in the same placement but for what the table says." in text


def test_report_marks_restarts_on_the_curves_and_lists_the_starts(tmp_path: Path):
    made = _make(tmp_path, languages=["sw"])
    session = record_session_start(made["model"].dir)
    for number, (step, hosts) in enumerate([(0, ["h1", "h1", "h2"]), (12, ["h1", "h1"])]):
        record_gang_start(
            made["model"].dir,
            session=session,
            step=step,
            num_restarts=number,
            world_size=len(hosts),
            zero_stage=2,
            hosts=hosts,
            device=EVIL,
            attention="sdpa",
            lost_steps=3 * number,
            lost_until=None,
        )
    page = _page(tmp_path, made)
    assert page.count('class="mark restart"') == 4
    text = _words(page)
    assert text.count("1 restart of the ranks") == 4
    assert f"It ended on 2 ranks of {EVIL}, ZeRO stage 2: 2 on h1." in text
    assert f"3 ranks of {EVIL}, ZeRO stage 2: 2 on h1, h2 0 0" in text
    assert f"2 ranks of {EVIL}, ZeRO stage 2: 2 on h1 12 3" in text


def test_report_is_drawn_by_templates_of_the_users_own(tmp_path: Path):
    own = tmp_path / "own"
    own.mkdir()
    style = (TEMPLATES / "style.css").read_text()
    (own / "style.css").write_text(
        style.replace("--paper: #fffdf9", "--paper: #abcdef") + "\n@media print{#nav{x:y}}\n"
    )
    made = _make(tmp_path, languages=["sw"])
    page = _page(tmp_path, made, templates=own)
    assert "--paper: #abcdef" in page and "@media print{#nav{x:y}}" in page
    assert _words(page).partition("The recipe")[0] == _words(_page(tmp_path, made)).partition("The recipe")[0]
    (own / "sort.js").write_text("// {# mine & yours #}")
    assert "<script>\n// {# mine & yours #}</script>" in _page(tmp_path, made, templates=own)
    (own / "page.html.j2").write_text("<p>{{ title }}: {{ training.model.num_steps | count }}</p>")
    assert _page(tmp_path, made, title="<A>", templates=own) == "<p>&lt;A&gt;: 20</p>"


def test_the_users_own_templates_are_part_of_what_is_made(tmp_path: Path):
    config = ReportConfig(templates=str(tmp_path / "own"))
    assert observe_templates(ReportConfig(), sha256_of) is None
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "style.css").write_text("a {}")
    (tmp_path / "own" / "parts").mkdir()
    (tmp_path / "own" / "parts" / "foot.html").write_text("included by a page")
    before = observe_templates(config, sha256_of)
    assert list(before) == ["parts/foot.html", "style.css"]  # type: ignore[call-overload]
    for name in ("style.css", "parts/foot.html"):
        (tmp_path / "own" / name).write_text("b {}")
        assert before != (before := observe_templates(config, sha256_of))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("page.html.j2", "\n{% if %}", r"own/page\.html\.j2:2: .*; mend the templates in .*own"),
        ("macros.html.j2", "{{ 1 +", r"own/macros\.html\.j2:1: .*; mend the templates in .*own"),
        (
            "notes.txt",
            "",
            r"own holds no file of a page "
            r"\(charts\.html\.j2, macros\.html\.j2, page\.html\.j2, sort\.js, style\.css\)",
        ),
    ],
)
def test_templates_that_cannot_make_a_page_are_refused_before_work(
    tmp_path: Path, name: str, text: str | bytes, says: str
):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says):
        check_report(ReportConfig(templates=str(tmp_path / "own")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<p>\n{{ nothing.here }}", r"own/page\.html\.j2:2: 'nothing' is undefined; mend the templates in .*own"),
        ("\n\n{{ 1 / 0 }}", r"own/page\.html\.j2:3: ZeroDivisionError: .*; mend the templates in .*own"),
        ("  \n", r"own/page\.html\.j2 gives an empty page; mend the template"),
        ('{% include "gone.html" %}', r"own/page\.html\.j2:1: .*gone\.html.*mend the templates"),
    ],
)
def test_a_template_that_fails_gives_its_file_and_line(tmp_path: Path, text: str, says: str):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "page.html.j2").write_text(text)
    with pytest.raises(UserError, match=says):
        _page(tmp_path, _make(tmp_path, languages=["sw"]), templates=tmp_path / "own")
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_signal_while_the_page_is_drawn_is_no_fault_of_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "page.html.j2").write_text("{{ title }}")

    def end(*_: object) -> str:
        raise Terminated("terminated; run the same command to go on")

    monkeypatch.setattr("pipeline.report.page.redact", end)
    with pytest.raises(Terminated) as error:
        _page(tmp_path, _make(tmp_path, languages=["sw"]), templates=tmp_path / "own")
    assert error.value.exit_code == RESUME_ME


@pytest.mark.parametrize(("method", "name"), [("iterdir", "own"), ("open", "own/style.css")])
def test_templates_without_rights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, name: str):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "style.css").write_text("a {}")
    real = getattr(Path, method)

    def refuse(path: Path, *arguments: Any) -> Any:
        if path == tmp_path / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(UserError, match=rf"{name} cannot be read \(Permission denied\); mend that, or take it out"):
        observe_templates(ReportConfig(templates=str(tmp_path / "own")), sha256_of)


def test_a_directory_of_templates_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"there is no directory .*/own \(seen from .*\); name one that holds templates"
    ):
        observe_templates(ReportConfig(templates=str(tmp_path / "own")), sha256_of)


def test_report_tells_the_outcome_and_the_numbers(tmp_path: Path):
    page = _page(tmp_path, _make(tmp_path, languages=["sw", "yo"]))
    text = _words(page)
    assert f"{SHA}  model/config.json" in page
    assert "6.00 nats a token, 1.25 below the unigram entropy" in text
    assert "1.500 bits per byte, the mean of 2 languages" in text
    assert "2,026 2,000 20 6 246,912 8,000 2.50" in text
    assert "xcopa 2 of 2 50.0% 40.0% to 60.0% 25.0% 33.3% 2 of 2 sw 50.0% (and 1 more) 16 –" in text
    assert "piqa – 30.0% 10.0% to 70.0% 25.0% 6.7% 0 of 1 – 8 –" in text
    assert f"evil {EVIL} – failed – – – – – – –" in text
    assert "xcopa, chance 25% 50% (40 to 60%)" in text
    assert "evil" in text and "Not scored" in text
    assert "Bits per byte by step, the mean of languages" in text and "step 4 was not scored" in text
    assert "broken.jsonl:7" in text
    assert "optimizer.learning_rate 0.004" in text
    assert "2.8.0, 2.9.0" in text
    assert "Every document read is accounted for" in text


def test_report_tells_how_training_went(tmp_path: Path):
    made = _make(tmp_path, languages=["sw", "yo"])
    text = _words(_page(tmp_path, made))
    assert "91.2% of the time of training went into steps that stand (goodput), with 2 restarts." in text
    assert "was 6,000 tokens a second; model FLOPs utilisation is unknown for this device." in text
    assert "Nats a token over the last 10 steps" in text
    assert "Loss by language, sw to yo" in text
    assert f"Roll-backs Reason At step Back to step Samples left out {EVIL} 19 15 3,200" in text
    assert "1 roll-back" in text
    assert "Gradient norm by step" in text


def test_report_of_a_smooth_training_has_its_mfu_and_no_roll_backs(tmp_path: Path):
    made = _make(tmp_path, languages=["sw"])
    smooth = made["model"].manifest.model_copy(update={"mfu": 0.413, "num_restarts": 0, "rollbacks": ()})
    made["model"] = Artifact(made["model"].dir, smooth)
    text = _words(_page(tmp_path, made))
    assert "model FLOPs utilisation (MFU) was 41.3% of the bf16 peak" in text
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
    text = _words(_page(tmp_path, made))
    assert "train_tokenizer-ffffffffffff (no longer in the store)" in text


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
    assert outcome(worse, None) == "The loss ended at 8.00 nats a token, 0.75 above the unigram entropy."
