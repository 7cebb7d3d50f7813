"""What follows from findings."""

import pytest

from cluster.doctor.report import Report, fail, ok, on_host, warn
from configs.base import StartUpError


def test_a_report_is_healthy_until_something_fails():
    report = Report(quick=True, findings=(ok("a", "x"), warn("b", "y", fix="do")))
    assert report.healthy
    assert not report.model_copy(update={"findings": (fail("c", "z", fix="do"),)}).healthy


def test_hosts_that_fail_can_be_left_out_while_others_do_not():
    one, other = (
        on_host("n1", [fail("disk", "full", fix="empty it")]),
        on_host("n2", [warn("disk", "slow", fix="wait")]),
    )
    report = Report(quick=True, findings=(*one, *other))
    assert report.failing_hosts == {"n1"}
    assert report.failures() == ["n1: disk: full; empty it"]
    report.raise_if_hopeless()


def test_a_failure_of_the_whole_or_of_every_node_leaves_no_hope():
    with pytest.raises(StartUpError, match="Ray address: no answer; start it"):
        Report(quick=True, findings=(fail("Ray address", "no answer", fix="start it"),)).raise_if_hopeless()
    with pytest.raises(StartUpError, match=r"every node fails the check \(disk\); `concord doctor`"):
        Report(quick=True, findings=tuple(on_host("n1", [fail("disk", "full", fix="empty it")]))).raise_if_hopeless()


def test_what_ends_it_is_said_once_and_all_of_it():
    report = Report(
        quick=True, findings=(fail("Python", "2.7", fix="3.11"), fail("Ray address", "silent", fix="start it"))
    )
    assert report.failures() == []
    with pytest.raises(StartUpError, match=r"Python: 2\.7; 3\.11\nRay address: silent; start it"):
        report.raise_if_hopeless()
