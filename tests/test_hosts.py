"""The hosts that tests use are apart from each other and from this machine, and leave nothing behind."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from tests.hosts import hosts, needs_hosts

pytestmark = needs_hosts
LISTEN = "import socket; s = socket.create_server(('', 7000)); print('up', flush=True); s.accept()[0].send(b'hello')"
ASK = "import socket; print(socket.create_connection(('host1', 7000), timeout=1).recv(9).decode())"
LINKS = ["ip", "-o", "link"]


def test_hosts_have_names_addresses_files_and_processes_of_their_own(tmp_path):
    with hosts(tmp_path, 2) as (first, second):
        assert first.call(["hostname"]) == "host1\n" and second.call(["hostname"]) == "host2\n"
        assert socket.gethostname() not in ("host1", "host2")
        first.call(["touch", "/tmp/mine", f"{tmp_path}/ours"])
        assert second.call(["sh", "-c", f"ls /tmp/mine {tmp_path}/ours || true"]).splitlines()[1:] == [
            f"{tmp_path}/ours"
        ]
        assert (first.temp / "mine").exists() and not Path("/tmp/mine").exists()
        sleeper = second.run(["sleep", "60"])
        assert "sleep 60" not in first.call(["ps", "ax"])
        second.power_off()
        assert sleeper.wait(timeout=10) == -signal.SIGKILL and not second.processes()


def test_a_signal_reaches_the_process_inside_and_its_exit_code_comes_out(tmp_path):
    with hosts(tmp_path, 1) as (host,):
        trap = "trap 'exit 75' TERM; echo ready; while :; do sleep 0.01; done"
        process = host.run(["sh", "-c", trap], stdout=subprocess.PIPE, env={"WORD": "x"})
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(timeout=10) == 75
        process.stdout.close()


def test_a_host_that_is_cut_off_answers_nobody_until_it_is_mended(tmp_path):
    with hosts(tmp_path, 2) as (first, second):
        server = first.run([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE)
        assert server.stdout.readline() == b"up\n"
        first.cut()
        assert second.run([sys.executable, "-c", ASK], stderr=subprocess.DEVNULL).wait() == 1
        first.mend()
        with socket.create_connection((first.address, 7000), timeout=5) as here:  # this machine is on the bridge, too
            assert here.recv(9) == b"hello"
        server.wait()
        server.stdout.close()


def test_a_full_disk_is_that_of_one_host(tmp_path):
    with hosts(tmp_path, 2, disk_mib=4) as (first, second):
        first.fill_disk()
        full = first.run(["sh", "-c", "echo text > /tmp/file"], stderr=subprocess.DEVNULL).wait()
        assert full != 0 and second.run(["sh", "-c", "echo text > /tmp/file"]).wait() == 0
        first.empty_disk()
        assert first.run(["sh", "-c", "echo text > /tmp/file"]).wait() == 0


def test_hosts_are_gone_when_their_context_is_left_or_their_test_is_killed(tmp_path):
    before = subprocess.check_output(LINKS)
    with hosts(tmp_path, 1) as (host,):
        host.cpu_quota(0.5)
        host.run(["sleep", "60"])
        pids = [host.first, *host.processes()]
        assert subprocess.check_output(LINKS) != before
    assert not any(map(psutil.pid_exists, pids)) and not host.cgroup.exists()
    program = (
        "from pathlib import Path; from tests.hosts import hosts\n"
        f"with hosts(Path({str(tmp_path)!r}), 1) as (host,): print(host.first, flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, **pipes) as killed:
        first = psutil.Process(int(killed.stdout.readline()))
        killed.kill()
    first.wait(timeout=10)
