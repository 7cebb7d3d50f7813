"""Steps are laid out by source: one that is added changes what is made from it, and nothing else."""

import pytest

from configs.run import RunConfig
from pipeline.graph.plan import Plan, make_plan
from pipeline.graph.wiring import wire, wiring_problems
from pipeline.recipe import recipe_problems, text_problems
from pipeline.stages import STAGES

MODEL = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "num_attention_heads": 4}
TRAIN = {
    "model": MODEL,
    "num_steps": 2,
    "sequence_length": 16,
    "global_batch_size": 2,
    "optimizer": {"learning_rate": 1e-3},
    "schedule": {"kind": "cosine", "num_warmup_steps": 1},
}


def source(name: str) -> dict[str, object]:
    return {"name": name, "kind": "plain_text", "paths": [f"{name}.txt"], "language": "en"}


def recipe(*sources: str, held_out: dict[str, object] | None = None, **inputs: dict[str, object]) -> RunConfig:
    """A recipe over sources, with other inputs for some of its steps."""
    first = [f"corpus.{sources[0]}"]
    wired: dict[str, dict[str, object]] = {
        "unique": {"corpus": "corpus"},
        "tokenizer": {"corpus": first},
        "tokens": {"corpus": "corpus", "mask": "unique", "tokenizer": "tokenizer"},
        "model": {"tokens": "tokens", "tokenizer": "tokenizer"},
        "scores": {"model": "model", "tokenizer": "tokenizer", "corpus": "corpus", "mask": "unique"},
    }
    configs = {"tokenizer": {"vocab_size": 300}, "model": TRAIN}
    stages = {
        "unique": "deduplicate",
        "tokenizer": "train_tokenizer",
        "tokens": "tokenize",
        "model": "train",
        "scores": "evaluate",
    }
    cleaned = {"sources": [source(name) for name in sources], "held_out": held_out or {}}
    steps: dict[str, object] = {"corpus": {"stage": "clean", "config": cleaned}}
    for name, stage in stages.items():
        steps[name] = {"stage": stage, "inputs": wired[name] | inputs.get(name, {}), "config": configs.get(name, {})}
    return RunConfig.model_validate({"name": "toy", "steps": steps})


def planned(run: RunConfig) -> Plan:
    assert wiring_problems(run, STAGES) == []
    return make_plan(run, STAGES, {})


def problems(run: RunConfig) -> list[str]:
    wired, found = wire(run, STAGES)
    return [problem.message for problem in [*found, *(text_problems(wired) if not found else [])]]


def test_each_source_has_an_artifact_a_mask_and_tokens():
    steps = planned(recipe("web", "books", "notes")).steps
    assert list(steps) == [
        *("corpus.web", "corpus.books", "corpus.notes", "unique.web", "unique.books", "unique.notes"),
        *("tokenizer", "tokens.web", "tokens.books", "tokens.notes", "model", "scores"),
    ]
    assert steps["unique.web"].inputs == {"corpus": "corpus.web", "earlier": ()}
    assert steps["unique.notes"].inputs == {"corpus": "corpus.notes", "earlier": ("corpus.web", "corpus.books")}
    assert steps["tokens.books"].inputs == {
        "corpus": "corpus.books",
        "mask": "unique.books",
        "tokenizer": "tokenizer",
    }
    assert steps["model"].inputs == {
        "tokens": ("tokens.web", "tokens.books", "tokens.notes"),
        "tokenizer": "tokenizer",
    }
    assert [step.origin for step in steps.values()].count("tokens") == 3
    config = steps["corpus.books"].config
    assert [one.name for one in config.sources] == ["books"]


@pytest.mark.parametrize("key", ["near", "paragraphs"])
def test_where_one_document_is_kept_for_all_a_mask_takes_the_masks_before_it(key):
    run = recipe("web", "books", "notes")
    unique = run.steps["unique"]
    config = unique.config.model_validate({key: {}})
    found = run.model_copy(update={"steps": {**run.steps, "unique": unique.model_copy(update={"config": config})}})
    steps = planned(found).steps
    assert steps["unique.notes"].inputs == {
        "corpus": "corpus.notes",
        "earlier": ("corpus.web", "corpus.books"),
        "earlier_masks": ("unique.web", "unique.books"),
    }
    own = unique.model_copy(update={"config": config, "inputs": {"corpus": ("corpus",), "earlier": ("corpus.web",)}})
    given = run.model_copy(update={"steps": {**run.steps, "unique": own}})
    assert "earlier_masks" not in planned(given).steps["unique.notes"].inputs
    told = "step 'unique.web' keeps one of several documents, so it needs the masks of its earlier corpora"
    assert any(told in one for one in problems(given))


def test_a_source_that_is_added_last_leaves_all_others_as_they_are():
    names = ["a", "b", "c", "d", "e", "f"]
    before, after = planned(recipe(*names)).steps, planned(recipe(*names, "new")).steps
    same = {name for name in before if before[name].fingerprint == after[name].fingerprint}
    assert set(before) - same == {"model", "scores"}
    assert set(after) - set(before) == {"corpus.new", "unique.new", "tokens.new"}


def test_a_single_source_is_laid_out_under_the_steps_own_names():
    steps = planned(recipe("web")).steps
    assert list(steps) == ["corpus", "unique", "tokenizer", "tokens", "model", "scores"]
    assert steps["tokenizer"].inputs == {"corpus": ("corpus",)}
    several = planned(recipe("web", "more")).steps
    assert steps["tokens"].fingerprint == several["tokens.web"].fingerprint


def test_a_share_of_another_source_is_no_part_of_an_artifact():
    before = planned(recipe("web", "books", held_out={"shares": {"*/en": 0.2}})).steps
    after = planned(recipe("web", "books", held_out={"shares": {"*/en": 0.2, "books/en": 0.1}})).steps
    assert before["corpus.web"].fingerprint == after["corpus.web"].fingerprint
    assert before["corpus.books"].fingerprint != after["corpus.books"].fingerprint


def test_two_steps_of_corpora_are_laid_out_as_one_list():
    run = recipe("web", "books")
    other = RunConfig.model_validate(
        run.model_dump()
        | {
            "steps": run.model_dump()["steps"]
            | {"extra": {"stage": "clean", "config": {"sources": [source("extra")], "min_characters": 5}}}
        }
    )
    both = other.model_copy(
        update={
            "steps": {
                name: step.model_copy(update={"inputs": {**step.inputs, "corpus": ("corpus", "extra")}})
                if name in ("unique", "tokens", "scores")
                else step
                for name, step in other.steps.items()
            }
        }
    )
    steps = planned(both).steps
    assert steps["unique.extra"].inputs == {"corpus": "extra", "earlier": ("corpus.web", "corpus.books")}
    assert steps["model"].inputs["tokens"] == ("tokens.web", "tokens.books", "tokens.extra")
    assert problems(both) == []


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"tokenizer": {"corpus": ["corpus.wbe"]}}, "has no part 'corpus.wbe'; did you mean 'corpus.web'?"),
        ({"tokens": {"mask": []}}, "trains on several corpora"),
        ({"scores": {"mask": []}}, "step 'scores' scores on several corpora (corpus.web, corpus.books)"),
        ({"scores": {"mask": "unique.web"}}, "its masks are of corpus.web; give those of the same corpora"),
        (
            {"tokens": {"mask": ["unique.books", "unique.web"]}},
            "step 'tokens.web' reads corpus.web, and its masks are of corpus.books",
        ),
        ({"tokens": {"corpus": ["corpus", "corpus.web"]}}, "'corpus' has two artifacts of 'web'"),
        ({"unique": {"earlier": "corpus.web", "nothing": "corpus"}}, "has no input 'nothing'"),
    ],
)
def test_what_is_wired_wrongly_is_one_sentence(inputs: dict[str, dict[str, object]], says: str):
    run = recipe("web", "books", **inputs)
    steps = {
        name: step.model_copy(update={"inputs": {slot: given for slot, given in step.inputs.items() if given}})
        for name, step in run.steps.items()
    }
    found = problems(run.model_copy(update={"steps": steps}))
    assert len(found) == 1 and says in found[0]


@pytest.mark.parametrize("reader", ["tokens", "scores"])
def test_masks_of_several_steps_that_never_looked_at_each_other_are_refused(reader: str):
    """Each is a mask of its corpus, and what both corpora have would be in both."""
    run = recipe("web", "books")
    apart = {
        name: run.steps["unique"].model_copy(update={"inputs": {"corpus": (f"corpus.{name}",)}})
        for name in ("web", "books")
    }
    changed = run.steps[reader].model_copy(update={"inputs": {**run.steps[reader].inputs, "mask": ("web", "books")}})
    found = problems(run.model_copy(update={"steps": {**run.steps, **apart, reader: changed}}))
    step = {"tokens": "model", "scores": "scores"}[reader]
    assert len(found) == 1 and f"{step!r}" in found[0]
    assert "corpus.web and corpus.books, and no mask has looked for what both have" in found[0]
    chained = apart["books"].model_copy(update={"inputs": {"corpus": ("corpus.books",), "earlier": ("corpus.web",)}})
    steps = {**run.steps, **apart, "books": chained, reader: changed}
    assert problems(run.model_copy(update={"steps": steps})) == []


def test_an_output_is_a_step_or_a_part_of_one():
    run = recipe("web", "books")
    assert problems(run.model_copy(update={"outputs": ("tokens.web", "unique")})) == []
    (found,) = problems(run.model_copy(update={"outputs": ("tokens.wbe",)}))
    assert "step 'tokens' has no part 'tokens.wbe'; did you mean 'tokens.web'?" in found


def test_a_tokenizer_names_the_sources_that_it_learns_from():
    found = [p.message for p in recipe_problems(recipe("web", "books", tokenizer={"corpus": "corpus"}))]
    assert len(found) == 1 and "corpus: [corpus.web, corpus.books]" in found[0]
    assert not list(recipe_problems(recipe("web", tokenizer={"corpus": "corpus"})))


def test_a_step_named_like_a_part_of_another_is_refused():
    run = recipe("web", "books")
    alone = recipe("web").steps["corpus"]
    steps = {**run.steps, "corpus.web": alone}
    found = problems(run.model_copy(update={"steps": steps}))
    assert any("'corpus.web' is named like a part of another" in one for one in found)
