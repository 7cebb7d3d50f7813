"""The Slurm that tests use runs jobs over several hosts, takes them away and gives them back."""

from tests.slurm import needs_slurm, slurm

pytestmark = needs_slurm


def test_slurm_runs_a_job_on_all_nodes_and_queues_one_again_that_was_preempted(tmp_path):
    with slurm(tmp_path, 2, grace_seconds=1, send_user_signal=True) as cluster:
        options = ["--parsable", "--nodes=2", "--requeue", "--open-mode=append", f"--output={tmp_path}/%j"]
        hello = cluster.call("sbatch", *options, "--wrap=srun hostname").strip()
        assert cluster.wait_for(hello, "COMPLETED", "FAILED") == "COMPLETED"
        assert sorted((tmp_path / hello).read_text().split()) == ["host1", "host2"]
        script = "trap 'echo told' USR1; [ $SLURM_RESTART_COUNT ] && exit; echo began; while :; do sleep 0.05; done"
        job = cluster.call("sbatch", *options, "--signal=B:USR1@9", f"--wrap={script}").strip()
        cluster.wait_for(job, "RUNNING")
        cluster.preempt()
        cluster.wait_for(job, "COMPLETED")
        assert cluster.restarts(job) == 1
        assert (tmp_path / job).read_text().split()[:2] == ["began", "told"]
