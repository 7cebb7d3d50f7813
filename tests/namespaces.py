"""Namespaces that stand for hosts, and the bridge between them: what `hosts.py` is made of."""

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from typing import Any

import psutil

FIRST = """
set -e
hostname "$NAME"
[ -z "$DISK_MIB" ] || mount -t tmpfs -o "size=${DISK_MIB}m" "$NAME" "$TEMP"
for path in $KEEP; do
    [ ! -d "$path" ] || { mkdir -p "$TEMP/${path#/tmp/}" && mount --rbind "$path" "$TEMP/${path#/tmp/}"; }
done
mount --rbind "$TEMP" /tmp
mount -t tmpfs -o size=1g shm /dev/shm
[ -z "$NAMES" ] || mount --bind "$NAMES" /etc/hosts
echo ready
exec env --ignore-signal=CHLD sleep infinity
"""
"""Script of the first process of a host. It ignores SIGCHLD, so that no process that it inherits stays as a zombie."""


@lru_cache
def why_no_hosts() -> str:
    """Return why there can be no hosts here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts need Linux and root"
    try:
        tried = isolated(["ip", "link", "add", "concord", "type", "veth", "peer", "name", "concord2"])
        done = subprocess.run(tried, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return f"hosts need {error.filename} (apt-get install iproute2 util-linux)"
    return f"hosts cannot be made here: {done.stderr.strip()}" if done.returncode else ""


def isolated(command: Sequence[str]) -> list[str]:
    """Return the command that runs `command` in namespaces of its own, which end with this process."""
    kinds = ["--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *kinds, "--kill-child", *command]


def start(stack: ExitStack, variables: Mapping[str, str]) -> tuple[subprocess.Popen[str], int]:
    """Start the process that holds a host's namespaces; return it, and the pid of the first one inside.

    Both end with the stack.
    """
    empty = {"DISK_MIB": "", "KEEP": "", "NAMES": ""}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    holder = subprocess.Popen(isolated(["sh", "-c", FIRST]), env={**os.environ, **empty, **variables}, **pipes)
    stack.enter_context(holder)
    stack.callback(holder.kill)
    assert holder.stdout is not None
    said = holder.stdout.readline()
    assert said == "ready\n", f"{variables['NAME']} did not come up: {said}{holder.stdout.read()}"
    first = psutil.Process(holder.pid).children()[0].pid
    stack.callback(end, first)
    return holder, first


def end(first: int) -> None:
    """End a host with all its processes, and wait until they are gone."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(first)
        process.kill()
        process.wait(timeout=30)


def connect(switch: int) -> str:
    """Make a bridge in the switch's namespace, with this machine on it; return the first three bytes of addresses."""
    taken = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    free = [network for third in range(256) if f" {(network := f'198.18.{third}')}." not in taken]
    network = secrets.choice(free)  # of the range for tests, RFC 2544
    link = f"concord-{secrets.token_hex(3)}"
    here = ["ip", "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", str(switch)]
    subprocess.run(here, check=True)
    subprocess.run(["ip", "addr", "add", f"{network}.254/24", "dev", link], check=True)
    subprocess.run(["ip", "link", "set", link, "up"], check=True)
    at(switch, "link add bridge type bridge\nlink set uplink master bridge\nlink set uplink up\nlink set bridge up\n")
    return network


def plug(switch: int, first: int, *, port: str, address: str) -> None:
    """Connect a host, by its first process, to the switch."""
    at(switch, f"link add {port} type veth peer name eth0 netns {first}\nlink set {port} master bridge up\n")
    at(first, f"link set lo up\nlink set eth0 up\naddr add {address}/24 dev eth0\n")


def at(process: int, script: str, *, command: str = "ip") -> None:
    """Run lines of `ip`, or of `tc`, in the network of a process."""
    enter = ["nsenter", f"--net=/proc/{process}/ns/net", command, "-batch", "-"]
    subprocess.run(enter, input=script, text=True, check=True)
