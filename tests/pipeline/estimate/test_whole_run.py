"""Time limits against what all steps take."""

from configs.cluster import ClusterConfig
from pipeline.estimate.basis import Range
from pipeline.estimate.whole_run import describe_whole, whole_run

HOUR = 3600.0
SLURM = {"launcher": {"kind": "slurm", "time_limit_minutes": 60, "signal_seconds": 600}}


def cluster(**settings) -> ClusterConfig:
    return ClusterConfig.model_validate(settings)


def test_steps_take_their_sum_and_those_of_unknown_time_are_named():
    found = whole_run({"corpus": Range(1, 2), "model": Range(10, 20), "export": None}, cluster())
    assert (found.seconds, found.unknown, found.num_jobs) == (Range(11, 22), ("export",), None)
    assert describe_whole(found) == ["all but export, whose time is not known, 11.0 s to 22.0 s"]


def test_a_time_limit_means_so_many_jobs_each_less_its_warning():
    found = whole_run({"model": Range(3 * HOUR, 10 * HOUR)}, cluster(**SLURM))
    assert found.seconds_per_job == 50 * 60
    assert found.num_jobs == (4, 12)  # 180 and 600 minutes in jobs of 50
    assert describe_whole(found)[1].startswith("4 to 12 jobs of 50 min 00 s of work (launcher.time_limit_minutes)")
    with_more = whole_run({"model": Range(3 * HOUR, 3 * HOUR), "scores": None}, cluster(**SLURM))
    assert describe_whole(with_more)[1].startswith("at least 4 jobs")


def test_one_job_is_enough_for_what_is_short():
    found = whole_run({"model": Range(1, 2)}, cluster(**SLURM))
    assert found.num_jobs == (1, 1) and "1 job of" in describe_whole(found)[1]


def test_the_time_of_no_step_is_no_time():
    found = whole_run({"model": None}, cluster(**SLURM))
    assert (found.seconds, found.num_jobs, describe_whole(found)) == (None, None, [])


def test_the_limit_of_the_whole_run_is_said_where_it_comes_before_the_end():
    limited = cluster(time_limit_minutes=60)
    ends = [
        whole_run({"model": Range(low * HOUR, high * HOUR)}, limited).exceeds for low, high in ((0, 1), (1, 2), (2, 3))
    ]
    assert ends[0] == ""
    assert ends[1].startswith("the run may end before it is done, after 1 h 00 min")
    assert ends[2].startswith("the run ends before it is done")
