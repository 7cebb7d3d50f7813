"""How the steps of a recipe are joined, each step with several artifacts laid out as several.

A `clean` step has an artifact a source: `corpus` with the sources web and books is laid out as `corpus.web` and
`corpus.books`. A step that takes one artifact where it is given several is laid out once for each (`tokens.web`,
`tokens.books`); one that takes a list is given them all, in order. So a source that is added changes what is made from
it, and leaves the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from configs.base import Config
from configs.data.stages import CleanConfig
from configs.load import Problem
from configs.run import RunConfig
from pipeline.graph.stage import Slot, Stage

Names = str | tuple[str, ...]


@dataclass(frozen=True)
class WiredStep:
    """What makes one artifact: a step of a recipe, or its part for one source."""

    name: str
    origin: str
    """The step of the recipe."""

    stage: str
    config: Config
    inputs: Mapping[str, Names]
    """For each slot the step that fills it, or, where it takes a list, the steps."""

    pool: str
    cadence: Config | None


class _Wirer:
    """Lays out the steps of a recipe, those that a step takes before it."""

    def __init__(self, run: RunConfig, stages: Mapping[str, Stage]) -> None:
        self._run, self._stages = run, stages
        self.problems: list[Problem] = []
        self.steps: dict[str, WiredStep] = {}
        self.twice: list[str] = []
        """Names that two steps have."""

        self._parts: dict[str, dict[str, str]] = {}
        """Step of the recipe -> key of each of its parts, such as a source -> name of the part."""

    def wire(self, name: str) -> None:
        """Lay out a step of the recipe whose inputs are laid out."""
        step, stage = self._run.steps[name], self._stages[self._run.steps[name].stage]
        configs: Mapping[str, Config] = {name: step.config}
        if isinstance(step.config, CleanConfig):
            configs = step.config.by_source()
        given = {slot: self._resolve(name, slot) for slot in step.inputs if slot in stage.slots}
        wide = {slot: parts for slot, parts in given.items() if not stage.slots[slot].is_list and len(parts) > 1}
        keys = list(configs)
        if wide:
            first, *others = wide.items()
            keys = list(first[1])
            for slot, parts in others:
                if len(parts) != len(keys):
                    self._add_problem(
                        name,
                        slot,
                        f"{slot!r} has {len(parts)} artifacts and {first[0]!r} has {len(keys)}; give as many, in the "
                        "same order",
                    )
                    return
        self._parts[name] = {key: name if len(keys) == 1 else f"{name}.{key}" for key in keys}
        for place, (key, part) in enumerate(self._parts[name].items()):
            inputs: dict[str, Names] = {}
            for slot, parts in given.items():
                names = tuple(parts.values())
                one = names[place] if slot in wide else names[0] if names else ""
                inputs[slot] = names if stage.slots[slot].is_list else one
            if not given.keys() & stage.before.keys():
                inputs |= self._given_before(name, place, given)
            config = configs.get(key, step.config)
            cadence = getattr(step, "cadence", None)
            self.twice += [part] if part in self.steps else []
            self.steps[part] = WiredStep(part, name, step.stage, config, inputs, step.pool, cadence)

    def _given_before(self, name: str, place: int, given: Mapping[str, Mapping[str, str]]) -> dict[str, Names]:
        """Return by slot what a part is given of those before it, where a recipe does not say."""
        step, stage = self._run.steps[name], self._stages[self._run.steps[name].stage]
        found: dict[str, Names] = {
            slot: tuple(given[of].values())[:place] for slot, of in stage.before.items() if of in given
        }
        for slot, applies in stage.own_before.items():
            if slot not in given and applies(step.config):
                found[slot] = tuple(self._parts[name].values())[:place]
        return found

    def _resolve(self, name: str, slot: str) -> dict[str, str]:
        """Return by key the parts of the steps that a slot is given."""
        found: dict[str, str] = {}
        for given in self._run.steps[name].given(slot):
            origin = self._run.origin(given)
            assert origin is not None
            parts = self._parts.get(origin, {})
            chosen = {key: part for key, part in parts.items() if given in (origin, f"{origin}.{key}")}
            if parts and not chosen:
                there = hint(given, [f"{origin}.{key}" for key in parts])
                self._add_problem(name, slot, f"step {origin!r} has no part {given!r}{there}")
            for key, part in chosen.items():
                if key in found:
                    self._add_problem(
                        name, slot, f"{slot!r} has two artifacts of {key!r}; keep one, or rename its source"
                    )
                found[key] = part
        return found

    def _add_problem(self, name: str, slot: str, text: str) -> None:
        self.problems.append(Problem(("steps", name, "inputs", slot), f"step {name!r}: {text}"))


def wire(run: RunConfig, stages: Mapping[str, Stage]) -> tuple[dict[str, WiredStep], list[Problem]]:
    """Return the laid-out steps by name, each after those that it takes, and everything wrong with how they are joined.

    The steps are of use only if nothing is wrong.
    """
    problems = [problem for name in run.steps for problem in _step_problems(run, stages, name)]
    problems += [
        Problem(("outputs", i), f"no step is named {output!r}{hint(output, list(run.steps))}")
        for i, output in enumerate(run.outputs)
        if run.origin(output) is None
    ]
    if problems:
        return {}, problems
    graph = {
        name: {run.origin(given) or given for slot in step.inputs for given in step.given(slot)}
        for name, step in run.steps.items()
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return {}, [Problem(("steps",), f"steps need each other in a circle: {' <- '.join(error.args[1])}")]
    wirer = _Wirer(run, stages)
    for name in order:
        wirer.wire(name)
    taken = [
        Problem(("steps", name), f"step {name!r} is named like a part of another; rename it") for name in wirer.twice
    ]
    there = {step.origin for step in wirer.steps.values()} | set(wirer.steps)
    gone = [
        Problem(("outputs", i), f"step {run.origin(output)!r} has no part {output!r}{hint(output, sorted(there))}")
        for i, output in enumerate(run.outputs)
        if output not in there and not wirer.problems
    ]
    return wirer.steps, [*wirer.problems, *taken, *gone]


def wiring_problems(run: RunConfig, stages: Mapping[str, Stage]) -> list[Problem]:
    """Return everything wrong with how steps are joined, all at once; empty if they can be planned."""
    return wire(run, stages)[1]


def wanted_steps(run: RunConfig, steps: Mapping[str, WiredStep]) -> tuple[str, ...]:
    """Return the laid-out steps whose artifacts are wanted: those of `outputs`, or those that no other takes."""
    if run.outputs:
        return tuple(name for output in run.outputs for name, step in steps.items() if output in (name, step.origin))
    unused = unused_steps({name: step.inputs for name, step in steps.items()})
    order = list(run.steps)
    return tuple(sorted(unused, key=lambda name: order.index(steps[name].origin)))


def unused_steps(inputs: Mapping[str, Mapping[str, Names]]) -> tuple[str, ...]:
    """Return the steps that no other step uses, wanted if a recipe names no outputs. `inputs` is by step and slot."""
    used = {name for slots in inputs.values() for given in slots.values() for name in as_names(given)}
    return tuple(name for name in inputs if name not in used)


def as_names(given: Names) -> tuple[str, ...]:
    """Return the steps that fill a slot."""
    return (given,) if isinstance(given, str) else given


def all_inputs(inputs: Mapping[str, Names]) -> tuple[str, ...]:
    """Return the steps that fill all slots, in order."""
    return tuple(name for given in inputs.values() for name in as_names(given))


def _step_problems(run: RunConfig, stages: Mapping[str, Stage], name: str) -> list[Problem]:
    step, at = run.steps[name], ("steps", name, "inputs")
    slots = stages[step.stage].slots
    problems = [
        Problem((*at, slot), f"step {name!r}: stage {step.stage!r} has no input {slot!r}{hint(slot, list(slots))}")
        for slot in step.inputs
        if slot not in slots
    ]
    for slot, kind in slots.items():
        if not kind.is_optional or step.given(slot):
            problems += _slot_problems(run, stages, name, slot, kind)
    return problems


def _slot_problems(run: RunConfig, stages: Mapping[str, Stage], name: str, slot: str, wanted: Slot) -> list[Problem]:
    kind, at = wanted.kind.__name__, ("steps", name, "inputs", slot)
    makers = [other for other, step in run.steps.items() if stages[step.stage].output.__name__ == kind]
    candidates = f"; steps that make it: {', '.join(makers) or 'none in this recipe'}"
    given = run.steps[name].given(slot)
    if not given:
        return [Problem(at, f"step {name!r} needs input {slot!r}, the step that makes a {kind}{candidates}")]
    problems = []
    for source in given:
        made_by = run.step_of(source)
        if made_by is None:
            problems.append(Problem(at, f"step {name!r}: no step is named {source!r}{hint(source, list(run.steps))}"))
        elif (made := stages[made_by.stage].output.__name__) != kind:
            problems.append(
                Problem(at, f"step {name!r}: {slot!r} wants a {kind}, but {source!r} makes a {made}{candidates}")
            )
    return problems


def hint(word: str, known: Sequence[str]) -> str:
    """Return a question after the known word that is like this one, or all of them."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (there are: {', '.join(known) or 'none'})"
