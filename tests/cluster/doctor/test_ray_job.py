"""The report in what the doctor's job has printed."""

from cluster.doctor.inside import REPORT_PREFIX
from cluster.doctor.ray_job import find_report
from cluster.doctor.report import Report, ok


def test_the_report_is_found_among_what_a_job_prints():
    report = Report(quick=True, findings=(ok("disk", "fine"),))
    log = f"a warning of Ray\n{REPORT_PREFIX}{report.model_dump_json()}\nand another\n"
    assert find_report(log, job="doctor-1", quick=True) == report


def test_a_job_that_ended_without_one_fails_with_its_last_words():
    (finding,) = find_report(
        "Traceback\nModuleNotFoundError: No module named 'x'\n", job="doctor-1", quick=True
    ).findings
    assert finding.level == "FAIL"
    assert "No module named 'x'" in finding.seen
    assert "ray job logs doctor-1" in finding.fix
