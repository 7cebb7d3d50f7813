"""What the documents show works: recipes and cluster files load, links lead somewhere, commands exist."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from configs.cluster import ClusterConfig
from configs.load import load
from configs.run import RunConfig
from configs.tasks import SuiteConfig
from pipeline.cli.app import app
from pipeline.graph.wiring import wiring_problems
from pipeline.stages import STAGES

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return every code block of a language, with the name of its document."""
    found = [
        (document.name, text)
        for document in DOCS
        for text in re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    ]
    assert found
    return found


def test_every_recipe_and_cluster_file_in_the_documents_loads(tmp_path: Path) -> None:
    kinds = []
    for name, text in blocks("yaml"):
        top = yaml.safe_load(text)
        file = tmp_path / name.replace(".md", ".yaml")
        file.write_text(text, encoding="utf-8")
        if "steps" in top:
            loaded = load(file, RunConfig)
            loaded.fail(wiring_problems(loaded.config, STAGES))
        elif "pools" in top:
            load(file, ClusterConfig)
        elif "tasks" in top:
            load(file, SuiteConfig)
        kinds.append("steps" if "steps" in top else "pools" if "pools" in top else "part")
    assert {"steps", "pools"} <= set(kinds)


def test_every_part_of_a_recipe_in_the_documents_loads(tmp_path: Path) -> None:
    """A step that is shown alone, with what it needs to be a recipe."""
    shown = [(name, yaml.safe_load(text)) for name, text in blocks("yaml")]
    parts = [(document, step, body) for document, top in shown for step, body in top.items()]
    steps = {(document, step): body for document, step, body in parts if isinstance(body, dict) and "stage" in body}
    assert len(steps) >= 3
    whole = load(ROOT / "configs" / "recipes" / "smoke.yaml", RunConfig).config.model_dump(mode="json")
    for (document, step), body in steps.items():
        base = next(value for value in whole["steps"].values() if value["stage"] == body["stage"])
        merged = {**base, **body, "config": {**base["config"], **body.get("config", {})}}
        file = tmp_path / "part.yaml"
        file.write_text(yaml.safe_dump({"name": "part", "steps": {step: merged}}), encoding="utf-8")
        assert load(file, RunConfig), document


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_and_pictures_of_a_document_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        assert link.startswith("https://") or (document.parent / link).exists(), f"{document.name} links to {link}"


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    named = re.findall(
        r"`((?:configs|cluster|data_prep|training|eval|pipeline|tests|benchmarks|docs)/[\w./]*\w)`",
        document.read_text(),
    )
    gone = [name for name in named if not (ROOT / name).exists()]
    assert gone == []


def test_commands_and_options_in_the_documents_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, text in blocks("sh"):
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if words[:1] != ["concord"] or words[1].startswith("-"):
                continue
            command = commands[words[1]]
            if hasattr(command, "commands"):
                command = command.commands[words[2]]
            options = {option for parameter in command.params for option in parameter.opts}
            unknown = [word for word in words[2:] if word.startswith("-") and word.partition("=")[0] not in options]
            assert unknown == [], f"{name}: {line}"
