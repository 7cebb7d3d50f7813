"""Where `concord run` says that the results are."""

from pathlib import Path

import pytest

from pipeline.prepare import Prepared, prepare
from pipeline.recipe import read_recipe
from pipeline.report.stage import Report
from pipeline.run import results
from pipeline.store.artifact import commit
from tests.pipeline.store.test_seen import record_of
from training.manifests import ExportedModel


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.chdir(tmp_path)
    return prepare(read_recipe(Path("smoke"), ("steps.corpus.config.sources.1.packages=[networkx]",)))


def finish(ready: Prepared, name: str, manifest: Report | ExportedModel) -> str:
    step = ready.plan.steps[name]
    (ready.store / step.artifact).mkdir(parents=True)
    commit(ready.store / step.artifact, record_of(step.stage, manifest))
    return step.artifact


def test_a_run_ends_with_the_paths_of_the_model_and_the_page(
    ready: Prepared, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = finish(
        ready, "export", ExportedModel(path="model", dtype="float32", step=1, num_parameters=1, num_bytes=1)
    )
    report = finish(ready, "report", Report(path="report.html", num_bytes=1))
    assert results(ready) == [("export", f"store/{export}/model"), ("report", f"store/{report}/report.html")]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert dict(results(ready))["report"] == str(ready.store / report / "report.html")


def test_what_is_not_there_is_not_named(ready: Prepared) -> None:
    assert results(ready) == []
