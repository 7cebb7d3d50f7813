"""Real hosts on this machine: each with its own network, address, name, processes, /tmp and /dev/shm.

    @needs_hosts
    def test_a_run_outlives_a_host(tmp_path):
        with hosts(tmp_path, 3) as (head, first, second):
            token = ray_token(tmp_path)
            address = ray_head(head, token, num_cpus=0)                  # "198.18.7.1:6379"
            for host in (first, second):
                ray_join(host, address, token, num_cpus=1, labels={"kind": "fast"})
            driver = head.run([sys.executable, "driver.py"], env=ray_variables(token), stdout=log)
            second.kill("raylet/raylet")                                 # or cut(), power_off(), ...
            assert driver.wait(timeout=60) == 0

Hosts are namespaces on one bridge. This machine is on it too, with an address that `hosts` gives it, so a test may
connect to a host. All hosts, and the test, see the same files except below /tmp, where they share only `directory` (say
the test's `tmp_path`), this working tree and the environment of Python. A host finds others by name, unless
`names=False`.

Everything is gone when the context is left, and also when the test is killed: the kernel ends all processes of a host
when its first one ends, and that ends with the test. No other processes than those of these hosts are touched.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.namespaces import at, connect, end, plug, start, why_no_hosts

ROOT = Path(__file__).parents[1]
QUOTA_PERIOD_MICROSECONDS = 20_000
"""Period of CPU quotas: a pass of some milliseconds takes as much longer as a long one, unlike with Linux' 100 ms."""

needs_hosts = pytest.mark.skipif(
    bool(why_no_hosts()) and not os.environ.get("CONCORD_NEEDS_HOSTS"), reason=why_no_hosts() or "there can be hosts"
)
"""Skips a test where there can be no hosts; with CONCORD_NEEDS_HOSTS in the environment the test fails there."""


class Running(subprocess.Popen[Any]):
    """A process inside a host. A signal goes to the process itself, not to the command that has put it there."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self.pid).children() or [psutil.Process(self.pid)]:
                    process.send_signal(sig)


@dataclass
class Host:
    """A host. Pids are those of this machine; inside the host the same processes have others."""

    name: str
    address: str
    temp: Path
    """The directory that the host sees as /tmp; seen from outside it is empty if the host has a disk of its own."""

    port: str
    """Name of the switch's end of its link."""

    switch: int
    holder: subprocess.Popen[str]
    first: int
    """Pid of its first process."""

    cgroup: Path | None = field(default=None, init=False)
    started: list[Running] = field(default_factory=list, init=False)

    def run(self, args: Sequence[str], *, env: Mapping[str, str] | None = None, **popen: Any) -> Running:
        """Start a process, in the directory `cwd` or the present one; `env` is added to this environment."""
        directory = str(popen.pop("cwd", None) or Path.cwd())
        at = f"/proc/{self.holder.pid}/ns"
        enter = [f"--{kind}={at}/{name}" for kind, name in {**_SPACES, "pid": "pid_for_children"}.items()]
        join = [f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"'] if self.cgroup else ['exec "$@"']
        process = Running(
            ["sh", "-c", *join, "sh", "nsenter", *enter, "--", "setsid", "env", "--chdir", directory, *args],
            env=os.environ | (env or {}),
            **popen,
        )
        self.started.append(process)
        return process

    def call(self, args: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = 60) -> str:
        """Run a command to its end and return what it printed. An exit code other than 0 is an error."""
        process = self.run(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output = str(process.communicate(timeout=timeout)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0, f"{args} on {self.name} ended with {process.returncode}:\n{output}"
        return output

    def processes(self) -> dict[int, str]:
        """Return the command lines of the living processes, except the first, by pid."""
        space, found = os.readlink(f"/proc/{self.first}/ns/pid"), {}
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                inside = os.readlink(f"/proc/{process.pid}/ns/pid") == space and process.pid != self.first
                if inside and (args := process.cmdline()):  # one that is dying has none
                    found[process.pid] = " ".join(args)
        return found

    def kill(self, pattern: str, sig: int = signal.SIGKILL) -> list[int]:
        """Send a signal to the processes whose command line matches the pattern; return their pids."""
        hit = [pid for pid, args in self.processes().items() if re.search(pattern, args)]
        for pid in hit:
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
        return hit

    def power_off(self) -> None:
        """Kill all that runs. The host can be used again at once, with what is in its /tmp."""
        while self.kill(""):
            time.sleep(0.01)

    def cut(self) -> None:
        """Take its link down, as if its cable were pulled out."""
        at(self.switch, f"link set {self.port} down\n")

    def mend(self) -> None:
        """Bring its link up again."""
        at(self.switch, f"link set {self.port} up\n")

    def shape(self, mbit: float) -> None:
        """Limit its link to so many Mbit/s, in each direction."""
        for process, link in ((self.switch, self.port), (self.first, "eth0")):
            limit = f"root tbf rate {mbit}mbit burst 64kb latency 100ms"
            at(process, f"qdisc replace dev {link} {limit}\n", command="tc")

    def cpu_quota(self, cores: float) -> None:
        """Limit all its processes together to the time of so many cores, from now on."""
        base = Path("/sys/fs/cgroup")
        unified = (base / "cgroup.controllers").exists()
        self.cgroup = (base if unified else base / "cpu") / f"concord-{os.getpid()}-{self.port}"
        if unified:
            (base / "cgroup.subtree_control").write_text("+cpu")
        self.cgroup.mkdir(exist_ok=True)
        quota = int(cores * QUOTA_PERIOD_MICROSECONDS)
        if unified:
            (self.cgroup / "cpu.max").write_text(f"{quota} {QUOTA_PERIOD_MICROSECONDS}")
        else:
            (self.cgroup / "cpu.cfs_period_us").write_text(str(QUOTA_PERIOD_MICROSECONDS))
            (self.cgroup / "cpu.cfs_quota_us").write_text(str(quota))
        for pid in [self.first, *self.processes()]:
            with suppress(ProcessLookupError):
                (self.cgroup / "cgroup.procs").write_text(str(pid))

    def fill_disk(self) -> None:
        """Fill the disk of its own, which is its /tmp; `empty_disk` undoes that."""
        self.run(["dd", "if=/dev/zero", "of=/tmp/filler", "bs=64k"], stderr=subprocess.DEVNULL).wait()

    def empty_disk(self) -> None:
        """Remove what `fill_disk` has written."""
        self.call(["rm", "/tmp/filler"])


_SPACES = {"net": "net", "uts": "uts", "ipc": "ipc", "mount": "mnt"}
"""Namespaces that `nsenter` is to enter, as it and as /proc calls them."""


@contextmanager
def hosts(directory: Path, number: int, *, disk_mib: int | None = None, names: bool = True) -> Iterator[list[Host]]:
    """Make `number` hosts, host1 and so on, that share `directory`; with `disk_mib`, each has a disk as its /tmp."""
    assert not why_no_hosts(), why_no_hosts()
    with ExitStack() as stack:
        _, switch = start(stack, {"NAME": "switch", "TEMP": str(_made(directory / "switch"))})
        network = connect(switch)
        listing = _made(directory / "etc") / "hosts"
        lines = [f"{network}.{index} host{index}" for index in range(1, number + 1)]
        listing.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]), encoding="utf-8")
        made = []
        for index in range(1, number + 1):
            temp = _made(directory / f"host{index}")
            variables = {"NAME": f"host{index}", "TEMP": str(temp), "DISK_MIB": str(disk_mib or "")}
            variables["NAMES"] = str(listing) if names else ""
            variables["KEEP"] = " ".join(
                path for path in map(str, (directory.resolve(), ROOT, sys.prefix)) if path.startswith("/tmp/")
            )
            holder, first = start(stack, variables)
            host = Host(f"host{index}", f"{network}.{index}", temp, f"port{index}", switch, holder, first)
            stack.callback(_forget, host)
            plug(switch, first, port=host.port, address=host.address)
            made.append(host)
        yield made


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _forget(host: Host) -> None:
    """End a host, and remove the control group of its CPU quota."""
    end(host.first)
    for process in host.started:
        process.wait(timeout=30)
    if host.cgroup:
        host.cgroup.rmdir()


def ray_token(directory: Path) -> Path:
    """Make a file with a new token for a Ray cluster, which only its owner can read."""
    path = directory / "ray_token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    return path


def ray_variables(token: Path) -> dict[str, str]:
    """Return what a process needs in its environment to use a Ray cluster with this token."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **quiet}


def ray_head(host: Host, token: Path, *, dashboard: bool = False, **options: Any) -> str:
    """Start a cluster's head, with options as for `ray_join`; return its address, which is the same each time.

    The dashboard, and with it the Jobs API, is at port 8265 of the host.
    """
    _ray_start(
        host,
        token,
        ["--head", "--port=6379", f"--include-dashboard={dashboard}", "--dashboard-host=0.0.0.0", "--no-monitor"],
        **options,
    )
    return f"{host.address}:6379"


def ray_join(
    host: Host,
    address: str,
    token: Path,
    *,
    num_cpus: int = 1,
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Add a host to the cluster with this head; `env` is for its daemons."""
    _ray_start(host, token, [f"--address={address}"], num_cpus=num_cpus, labels=labels, env=env)


def ray_stop(host: Host) -> None:
    """Kill the processes of Ray on a host, and their workers."""
    while host.kill(r"/ray/|ray::"):
        time.sleep(0.01)


def _ray_start(
    host: Host,
    token: Path,
    flags: list[str],
    *,
    num_cpus: int = 1,
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    own = [f"--node-ip-address={host.address}", f"--num-cpus={num_cpus}", f"--object-store-memory={100 * 2**20}"]
    own += ["--include-log-monitor=false"]  # as with the head's `--no-monitor`: nobody needs it, and it costs a start
    marks = [f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}"] if labels else []
    ray = [str(Path(sys.executable).parent / "ray"), "start", *flags, *own, *marks, "--disable-usage-stats"]
    # Ray's limits of 30 s are too short while others use the cores.
    patient = {"RAY_raylet_start_wait_time_s": "150", "RAY_agent_register_timeout_ms": "150000"}
    host.call(ray, env={**ray_variables(token), **patient, **(env or {})}, timeout=300)
