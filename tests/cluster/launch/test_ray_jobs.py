import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from cluster.host.network import free_port
from cluster.launch.ray_jobs import RayJobs
from configs.base import ConfigError, StartUpError
from configs.launchers import RayLauncher
from tests.cluster.launch.submissions import ROOT, submission

TOKEN = secrets.token_hex(32)

DRIVER = """
import os, signal, sys, time, ray, cluster
def save(*_):
    print("saving", flush=True)
    time.sleep(4)  # longer than the 3 s that Ray gives by itself
    print("saved", flush=True)
    sys.exit(75)
ray.init(address=sys.argv[2], log_to_driver=False, logging_level="ERROR")
signal.signal(signal.SIGTERM, save)
@ray.remote(num_cpus=0)
def where():
    return cluster.__file__, os.environ.get("NCCL_DEBUG"), os.environ.get("HF_TOKEN")
print("WORKER", *ray.get(where.remote()), flush=True)
print("DRIVER", os.getcwd(), cluster.__file__, os.environ.get("HF_TOKEN"), flush=True)
if os.environ.get("NCCL_DEBUG") == "WAIT":
    time.sleep(300)
sys.exit(3)
"""


@contextmanager
def dashboard(*, version: str = ray.__version__, token: str | None = None, host: str = "127.0.0.1") -> Iterator[str]:
    """What answers as a Ray's dashboard does when it is asked for its version."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization")
            code = 200 if token is None or shown == f"Bearer {token}" else 401 if shown is None else 403
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps({"ray_version": version}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{host}:{server.server_port}"
    server.shutdown()
    server.server_close()


def check(address: str, **settings: bool) -> None:
    RayJobs(RayLauncher(kind="ray", dashboard_address=address), **settings).check()


def checked(address: str, **environment: str) -> str:
    """What `check` says in a process that has such an environment: Ray reads its token once in a process."""
    program = f"""
from cluster.launch.ray_jobs import RayJobs
from configs.base import UserError
from configs.launchers import RayLauncher
try:
    RayJobs(RayLauncher(kind="ray", dashboard_address={address!r})).check()
except UserError as error:
    print(type(error).__name__, error)
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | environment
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_cluster_that_wants_a_token_is_shown_ours():
    with dashboard(token=TOKEN) as address:
        ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        assert checked(address, **ours) == ""
        assert "ConfigError" in (said := checked(address)) and "wants a token; set RAY_AUTH_MODE=token" in said
        assert "refuses this token" in checked(address, **ours | {"RAY_AUTH_TOKEN": "0" * 64})


def test_a_cluster_that_wants_no_token_must_be_here_or_allowed(monkeypatch):
    with dashboard() as address:
        check(address)
    with dashboard(host=os.uname().nodename) as address:
        with pytest.raises(ConfigError, match="wants no token, so whoever reaches it can run any code there"):
            check(address)
        check(address, allow_no_token=True)


def test_a_cluster_of_another_version_is_refused():
    with (
        dashboard(version="2.9.0") as address,
        pytest.raises(ConfigError, match=r"of version 2\.9\.0, and this one is"),
    ):
        check(address)


def test_a_head_node_that_does_not_answer_is_told():
    with pytest.raises(StartUpError, match=r"no Ray dashboard answers at http:.*refused"):
        check("http://127.0.0.1:1")


def test_the_command_and_what_is_sent_hold_no_secret(tmp_path):
    sent = submission(tmp_path, "-m", "pipeline.cli", HF_TOKEN="sesame", NCCL_DEBUG="INFO")
    shown = RayJobs(RayLauncher(kind="ray")).render(sent)
    assert "sesame" not in shown and "--expect HF_TOKEN" in shown and "-m pipeline.cli" in shown


class StartingRay:
    """A client of a Ray that refuses jobs, once for each of `refusals`, and then takes them."""

    def __init__(self, *refusals: str) -> None:
        self.refusals, self.jobs = list(refusals), []

    def __call__(self, address: str) -> "StartingRay":
        return self

    def get_address(self) -> str:
        return "http://head:8265"

    def submit_job(self, *, submission_id: str, **_: object) -> None:
        if self.refusals:
            raise RuntimeError(self.refusals.pop(0))
        self.jobs.append(submission_id)

    def get_job_info(self, job: str) -> str:
        if job not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: {job} does not exist")
        return job


def test_a_cluster_that_is_coming_up_is_tried_again_and_another_refusal_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.launch.ray_jobs.SECONDS_BETWEEN_TRIES", 0.01)
    starting = StartingRay(*["No available agent to submit job, please try again later."] * 3)
    monkeypatch.setattr("cluster.launch.ray_jobs.JobSubmissionClient", starting)
    RayJobs(RayLauncher(kind="ray")).submit(submission(tmp_path))
    assert starting.jobs == ["smoke-1a2b-1"] and starting.refusals == []
    starting.refusals.append("the package is too large")
    RayJobs(RayLauncher(kind="ray")).submit(submission(tmp_path))  # is there already
    starting.refusals.append("the package is too large")
    with pytest.raises(StartUpError, match="took no job: the package is too large"):
        RayJobs(RayLauncher(kind="ray")).submit(submission(tmp_path, number=2))
    assert starting.jobs == ["smoke-1a2b-1"]


needs_dashboard = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None, reason="Ray's Jobs API needs ray[default]"
)


CLIENT = """
import json, sys, time
from pathlib import Path
from cluster.launch.ray_jobs import RayJobs
from configs.base import StartUpError
from configs.launchers import RayLauncher
from tests.cluster.launch.submissions import submission

address, directory, program = sys.argv[1:]
jobs, end = RayJobs(RayLauncher(kind="ray", dashboard_address=address)), time.monotonic() + 250

def until(happened):
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)

def answers():
    try:
        jobs.check()
    except StartUpError:
        return False
    return True

def send(number, mode):
    sent = submission(Path(directory) / str(number), "-c", program, number=number, HF_TOKEN="sesame", NCCL_DEBUG=mode)
    sent.log.parent.mkdir()
    handle = jobs.submit(sent)
    assert jobs.submit(sent) == handle
    return sent.log, handle

def ended(handle):
    until(lambda: jobs.status(handle).state == "ended")
    return jobs.status(handle).detail, jobs.last_output(handle)

until(answers)
log, runs = send(1, "INFO")
print(json.dumps(ended(runs)))
log, waits = send(2, "WAIT")
until(lambda: log.exists() and "DRIVER" in log.read_text())
jobs.stop(waits)
print(json.dumps(ended(waits)))
jobs.stop(waits)
print(json.dumps(jobs.status(runs.replace("1a2b-1", "1a2b-7")).detail))
"""


@contextmanager
def real_ray(environment: dict[str, str]) -> Iterator[str]:
    """The dashboard's address of a Ray of this machine."""
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # pytest's are too long for Ray's sockets
    dashboard_port = free_port()
    options = [f"--port={free_port()}", f"--dashboard-port={dashboard_port}", f"--temp-dir={directory}"]
    options += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1", *options]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{dashboard_port}"
    finally:
        head.terminate()
        head.wait(60)
        deadline = time.monotonic() + 30
        while directory.exists():  # its processes write until they are gone
            shutil.rmtree(directory, ignore_errors=time.monotonic() < deadline)


@needs_dashboard
def test_a_job_runs_the_code_that_was_sent_without_secrets_once_and_saves_when_it_is_stopped(tmp_path):
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    with real_ray(environment) as address:
        client = [sys.executable, "-c", CLIENT, address, str(tmp_path), DRIVER]
        done = subprocess.run(client, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ran, stopped, unknown = map(json.loads, done.stdout.splitlines())
    assert ran[0] == "FAILED, exit code 3" and "DRIVER" in ran[1]
    log = (tmp_path / "1" / "run" / "log.txt").read_text()
    worker, driver = (line.split() for line in log.splitlines() if line.startswith(("WORKER", "DRIVER")))
    assert worker[2:] == ["INFO", "None"] and driver[1] == str(tmp_path / "1" / "here") and driver[3] == "None"
    assert worker[1] == driver[2] and not driver[2].startswith(str(ROOT))
    assert "HF_TOKEN" in log and "sesame" not in log
    assert stopped[0] == "STOPPED" and (tmp_path / "2" / "run" / "log.txt").read_text().endswith("saved\n")
    assert "has no job" in unknown
