"""What `concord doctor` prints."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.doctor.bundle import write_bundle
from cluster.doctor.examine import examine
from cluster.doctor.report import Finding, Report
from configs.cluster import ClusterConfig
from configs.load import load, shipped

_STYLES = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}
_MAX_HOSTS = 4


def show_doctor(
    cluster: str,
    out: Console,
    *,
    as_json: bool,
    quick: bool,
    bundle: Path | None,
    store: Path,
    logs: Sequence[Path] = (),
) -> bool:
    """Examine a cluster and say what was found; whether nothing FAILs. `logs` go into the bundle."""
    file = shipped("clusters", cluster)
    machines = load(file, ClusterConfig).config
    report = examine(machines, store=store, quick=quick)
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        print_report(report, out)
    if bundle is not None:
        write_bundle(bundle, report, machines=machines, cluster_file=file, logs=logs)
        if not as_json:
            out.print(f"{bundle}: secrets that were recognised are taken out; look through it before you send it")
    return report.healthy


def print_report(report: Report, out: Console) -> None:
    """A table of findings, what is alike on several hosts in one row, and a line that sums up."""
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
    """Findings with their hosts, and whether all saw the same: the OK ones of a check are one, and so are those that
    saw the same."""
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
