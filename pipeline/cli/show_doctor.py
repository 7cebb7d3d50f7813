"""`concord doctor`: what it prints of the findings."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.doctor.examine import examine
from cluster.doctor.report import Finding, Report, check_bundle, fail_with_error, ok, write_bundle
from cluster.storage.objects import is_url
from configs.base import UserError
from configs.cluster import ClusterConfig, StorageConfig
from configs.load import load, shipped
from pipeline.runs.directory import RunDirectory, open_run, store_of
from pipeline.runs.logs import list_rank_output
from pipeline.store.remote import local_path, open_remote_store
from training.loop.hangs import STACKS

_STYLES = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}
_MAX_HOSTS = 4

_MAX_RANK_FILES = 64
"""How many files of ranks of one training go into a bundle: of a thousand ranks one failed."""


def show_doctor(
    cluster: str,
    out: Console,
    *,
    as_json: bool,
    quick: bool,
    bundle: Path | None,
    store: str,
    run: str | None = None,
) -> bool:
    """Examine a cluster and print what was found; return whether nothing FAILs. The logs of a run go into the bundle.

    Raises UserError if there is no such run, or the bundle cannot be written.
    """
    file = shipped("clusters", cluster)
    machines = load(file, ClusterConfig).config
    if run is not None and bundle is None:
        raise UserError("--run puts the logs of a run into a bundle; give --bundle FILE, too")
    store = store_of(store)
    directory = open_run(store, run, work_dir=machines.storage.work_dir) if run is not None else None
    if bundle is not None:
        check_bundle(bundle)
    report = examine(machines, store=local_path(store, machines.storage.work_dir), quick=quick)
    if is_url(store):
        report = report.model_copy(update={"findings": (*report.findings, url_finding(store, machines.storage))})
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        print_report(report, out)
    if bundle is not None:
        with _logs(directory) as logs:
            write_bundle(bundle, report, machines=machines, cluster_file=file, logs=logs)
        if not as_json:
            out.print(f"{bundle}: secrets that were recognised are taken out; look through it before you send it")
    return report.healthy


def url_finding(store: str, storage: StorageConfig) -> Finding:
    """Return the finding whether this machine can write a store that is a URL."""
    try:
        remote = open_remote_store(store, storage)
        assert remote is not None
        remote.check()
    except UserError as error:
        return fail_with_error("store", error)
    return ok("store", f"{store}: objects can be written and deleted")


@contextmanager
def _logs(directory: RunDirectory | None) -> Iterator[list[Path]]:
    """Yield the logs of all starts of a run; those that this machine does not have are fetched from the store."""
    with TemporaryDirectory(prefix="concord-") as fetched:
        files = []
        for start in directory.starts() if directory is not None else ():
            assert directory is not None
            file = directory.log_path(start.number)
            if not file.exists():
                log, file = directory.read_stored_log(start.number), Path(fetched, file.name)
                file.write_bytes(log)
            files.append(file)
        yield files + (_rank_files(directory) if directory is not None else [])


def _rank_files(directory: RunDirectory) -> list[Path]:
    """Return what the ranks of a run's trainings printed, and the stacks of those that hung, the newest of each."""
    found: list[Path] = []
    for artifact in {artifact for start in directory.starts()[-1:] for artifact in start.artifacts.values()}:
        path = directory.home / artifact
        found += _newest(list_rank_output(path)) + _newest(path.glob(f"{STACKS}/*/*"))
    return found


def _newest(files: Iterable[Path]) -> list[Path]:
    """Return the files that were written last, at most _MAX_RANK_FILES."""
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[:_MAX_RANK_FILES]


def print_report(report: Report, out: Console) -> None:
    """Print a table of findings, with what is alike on several hosts in one row, and a line that counts them."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=24)
    table.add_column(overflow="fold", ratio=1)
    for finding, hosts, same in _alike(report.findings):
        seen = Text(f"{_names(hosts)}: {'' if same else 'such as '}{finding.seen}" if hosts else finding.seen)
        if finding.fix:
            seen.append(f"\nfix: {finding.fix}", style="bold")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), Text(finding.check), seen)
    out.print(table)
    counts = [f"{sum(f.level == level for f in report.findings)} {level}" for level in _STYLES]
    out.print(", ".join(counts), markup=False)


def _alike(findings: Sequence[Finding]) -> list[tuple[Finding, list[str], bool]]:
    """Return groups of findings: the first one, the hosts, and whether all hosts saw the same.

    The OK findings of a check are one group, and so are those of a check and level that saw the same.
    """
    groups: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        seen = "" if finding.level == "OK" and finding.host else finding.seen
        groups[finding.check, finding.level, seen].append(finding)
    return [
        (group[0], [one.host for one in group if one.host], len({one.seen for one in group}) == 1)
        for group in groups.values()
    ]


def _names(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - _MAX_HOSTS} more" if len(hosts) > _MAX_HOSTS else ""
    return ", ".join(hosts[:_MAX_HOSTS]) + more
