"""What `concord doctor` prints, and the bundle."""

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cluster.doctor.report import Report, fail, ok, on_host
from cluster.host.files import write_text
from configs.base import UserError
from pipeline.cli.show_doctor import print_report, show_doctor
from tests.pipeline.runs.toy_runs import toy_directory, toy_start

SECRET = "correct-horse-battery"


def test_this_machine_can_be_examined_as_json(tmp_path, capsys):
    store = tmp_path / "store"
    healthy = show_doctor("inline", Console(), as_json=True, quick=True, bundle=None, store=str(store))
    report = json.loads(capsys.readouterr().out)
    assert healthy == all(finding["level"] != "FAIL" for finding in report["findings"])
    assert {"Python", "packages", "store permissions"} <= {finding["check"] for finding in report["findings"]}


def test_a_store_that_cannot_be_written_is_told_with_its_fix(tmp_path):
    (tmp_path / "file").touch()
    out = Console(record=True, width=200)
    store = str(tmp_path / "file" / "store")
    assert not show_doctor("inline", out, as_json=False, quick=True, bundle=None, store=store)
    text = out.export_text()
    assert "FAIL" in text
    assert "--set store=DIR" in text


def test_a_bundle_holds_what_helps_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", SECRET)
    monkeypatch.setenv("HARMLESS", f"with {SECRET} in it")
    store, bundle = tmp_path / "store", tmp_path / "bundle.tar.gz"
    directory = toy_directory(store)
    log = directory.log_path(toy_start(directory).number)
    log.parent.mkdir(parents=True)
    log.write_text(f"started\nkey is {SECRET}\npassword=hunter2\nended\n", encoding="utf-8")
    (training,) = directory.starts()[0].artifacts.values()
    for name in ("ranks/rank-00003.log", "stacks/attempt-0-7/rank-00003.txt"):
        write_text(store / training / name, f"NCCL WARN {SECRET}\n")
    cluster = tmp_path / "mine.yaml"
    cluster.write_text(f"executor: inline\nenvironment: {{NOTE: '{SECRET}', WORDS: see x}}\n", encoding="utf-8")
    monkeypatch.setenv("STORAGE", "AccountName=x;AccountKey=hunter2")
    monkeypatch.setenv("DB_PASS", "hunter2")
    out = Console(record=True, width=200)
    show_doctor(str(cluster), out, as_json=False, quick=True, bundle=bundle, store=str(store), run="toy")
    with tarfile.open(bundle) as archive:
        texts = {name.split("/", 1)[1]: archive.extractfile(name).read().decode() for name in archive.getnames()}
    assert {
        "report.json",
        "environment.json",
        "cluster.yaml",
        "pip-freeze.txt",
        "logs/0-start-0001.log",
    } <= texts.keys()
    assert texts["logs/1-rank-00003.log"] == texts["logs/2-rank-00003.txt"] == "NCCL WARN [redacted]\n"
    assert texts["logs/0-start-0001.log"] == "started\nkey is [redacted]\npassword=[redacted]\nended\n"
    environment = json.loads(texts["environment.json"])
    assert environment["HARMLESS"] == "with [redacted] in it"
    assert environment["STORAGE"] == "AccountName=x;AccountKey=[redacted]"
    assert yaml.safe_load(texts["cluster.yaml"])["environment"] == {"NOTE": "[redacted]", "WORDS": "see x"}
    assert not any(SECRET in text or "hunter2" in text for text in texts.values())


@pytest.mark.parametrize("there", ["", "missing/b.tgz"])
def test_a_bundle_goes_into_a_directory_that_is_there(tmp_path, there):
    with pytest.raises(UserError, match="give a file in a directory that is there"):
        show_doctor("inline", Console(), as_json=True, quick=True, bundle=tmp_path / there, store=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_store_behind_a_url_is_tried_and_its_work_directory_looked_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    show_doctor("inline", Console(), as_json=True, quick=True, bundle=None, store="memory://doctor/x")
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["store"]["level"] == "OK"
    assert str(tmp_path) in findings["store permissions"]["seen"]
    show_doctor("inline", Console(), as_json=True, quick=True, bundle=None, store="nothing://x")
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["store"]["level"] == "FAIL"
    assert list(Path(tmp_path).iterdir()) == []


def test_what_is_alike_on_many_hosts_is_one_row():
    findings = [
        f for i in range(9) for f in on_host(f"n{i}", [ok("disk", f"{i} GiB"), fail("clock", "late", fix="set it")])
    ]
    out = Console(record=True, width=200)
    print_report(Report(quick=False, findings=tuple(findings)), out)
    text = out.export_text()
    assert text.count("disk") == text.count("clock") == 1
    assert "n0, n1, n2, n3 and 5 more: such as 0 GiB" in text
    assert "n0, n1, n2, n3 and 5 more: late" in text
    assert "9 OK, 0 WARN, 9 FAIL" in text
