from dataclasses import replace

import pytest

from pipeline.graph.wiring import all_inputs, wiring_problems
from tests.pipeline.toys import STAGES, Bind, Repeat, ToyRun, ToyStep, Write, planned, recipe


def identities(run: ToyRun, **observed: object) -> dict[str, str]:
    return {name: step.fingerprint for name, step in planned(run, **observed).steps.items()}


def changed(run: ToyRun, **observed: object) -> set[str]:
    """Steps of the toy recipe whose identity is another in `run`."""
    before, after = identities(recipe()), identities(run, **observed)
    return {name for name in before if before[name] != after[name]}


def test_a_plan_puts_every_step_after_its_inputs():
    backwards = ToyRun(dict(reversed(recipe().steps.items())))
    seen = []
    for step in planned(backwards).steps.values():
        assert set(all_inputs(step.inputs)) <= set(seen)
        seen.append(step.name)


def test_a_step_is_made_in_a_directory_of_its_stage_and_fingerprint():
    step = planned().steps["twice"]
    assert step.artifact == f"repeat-{step.fingerprint[:12]}"


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"first": ToyStep("write", Write(text="ONE "))}, {"first", "twice", "book"}),
        ({"other": ToyStep("write", Write(text="TWO "))}, {"other", "book"}),
        ({"twice": ToyStep("repeat", Repeat(times=3), {"text": "first"})}, {"twice", "book"}),
        ({"twice": ToyStep("repeat", Repeat(), {"text": "other"})}, {"twice", "book"}),
        ({"book": ToyStep("bind", Bind(), {"left": "other", "right": "twice"})}, {"book"}),
        ({"extra": ToyStep("write", Write(text="three"))}, set()),
    ],
)
def test_a_change_reaches_exactly_what_depends_on_it(change, touched):
    assert changed(recipe(**change)) == touched


def test_what_a_stage_observes_is_identity():
    assert changed(recipe(), first={"a.txt": "00"}) == {"first", "twice", "book"}


def test_a_new_version_of_a_stage_is_identity():
    newer = STAGES | {"repeat": replace(STAGES["repeat"], version=2)}
    before, after = planned().steps, planned(stages=newer).steps
    assert [name for name in before if before[name].fingerprint != after[name].fingerprint] == ["twice", "book"]


def test_placement_and_names_of_steps_are_not_identity():
    elsewhere = {name: replace(step, pool="big") for name, step in recipe().steps.items()}
    assert changed(ToyRun(elsewhere)) == set()
    renamed = ToyRun({"start": recipe().steps["first"], "twice": ToyStep("repeat", Repeat(), {"text": "start"})})
    assert identities(renamed)["twice"] == identities(recipe())["twice"]


def test_a_value_written_out_is_the_same_as_its_default():
    assert changed(recipe(twice=ToyStep("repeat", Repeat(times=2), {"text": "first"}))) == set()


def test_wanted_are_the_steps_that_nothing_takes_unless_outputs_are_named():
    assert planned().outputs == ("book",)
    assert planned(recipe(extra=ToyStep("write", Write(text="x")))).outputs == ("book", "extra")
    assert planned(replace(recipe(), outputs=("first", "twice"))).outputs == ("first", "twice")


def test_a_recipe_without_faults_has_no_problems():
    assert wiring_problems(recipe(), STAGES) == []


@pytest.mark.parametrize(
    ("step", "place", "words"),
    [
        (ToyStep("repeat", Repeat()), "text", "step 'bad' needs input 'text', the step that makes a Text"),
        (
            ToyStep("repeat", Repeat(), {"text": "first", "txt": "first"}),
            "txt",
            "has no input 'txt'; did you mean 'text'?",
        ),
        (ToyStep("write", Write(text=""), {"text": "first"}), "text", "has no input 'text' (there are: none)"),
        (ToyStep("repeat", Repeat(), {"text": "frist"}), "text", "no step is named 'frist'; did you mean 'first'?"),
        (ToyStep("repeat", Repeat(), {"text": "zzz"}), "text", "no step is named 'zzz' (there are: first, other, "),
        (ToyStep("repeat", Repeat(), {"text": "book"}), "text", "'text' wants a Text, but 'book' makes a Page"),
    ],
)
def test_a_miswired_step_is_one_problem_with_its_place(step, place, words):
    (problem,) = wiring_problems(recipe(bad=step), STAGES)
    assert problem.location == ("steps", "bad", "inputs", place)
    assert words in problem.message


@pytest.mark.parametrize("wiring", [{"text": "book"}, {}], ids=["of the wrong type", "missing"])
def test_a_problem_with_an_input_names_the_steps_that_could_fill_it(wiring):
    (problem,) = wiring_problems(recipe(bad=ToyStep("repeat", Repeat(), wiring)), STAGES)
    assert "steps that make it: first, other, twice" in problem.message


def test_an_unknown_output_is_a_problem():
    (problem,) = wiring_problems(replace(recipe(), outputs=("book", "boko")), STAGES)
    assert problem.location == ("outputs", 1)
    assert "no step is named 'boko'; did you mean 'book'?" in problem.message


@pytest.mark.parametrize("length", [1, 2, 3])
def test_steps_that_need_each_other_are_one_problem(length):
    names = [f"step{i}" for i in range(length)]
    circle = {name: ToyStep("repeat", Repeat(), {"text": names[i - 1]}) for i, name in enumerate(names)}
    (problem,) = wiring_problems(recipe(**circle), STAGES)
    assert "circle" in problem.message
    assert all(name in problem.message for name in names)


def test_all_problems_come_at_once_in_the_order_of_the_recipe():
    run = recipe(
        book=ToyStep("bind", Bind(), {"middle": "first", "centre": "first", "left": "nobody"}),
        last=ToyStep("repeat", Repeat(), {"text": "book"}),
    )
    places = [problem.location[1:] for problem in wiring_problems(replace(run, outputs=("none",)), STAGES)]
    book = [("book", "inputs", slot) for slot in ("middle", "centre", "left", "right")]
    assert places == [*book, ("last", "inputs", "text"), (0,)]
