"""Addresses and ports."""

import ipaddress
import socket

import psutil


def free_port() -> int:
    """A TCP port that nobody on this host listens on now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def answers(address: str, *, timeout_seconds: float = 5.0) -> bool:
    """Whether something accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_seconds):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine as only it can reach itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def interface_of(address: str) -> str | None:
    """Name of this host's network interface that holds an address; None if none does."""
    for name, held in psutil.net_if_addrs().items():
        if address in (one.address.partition("%")[0] for one in held):
            return str(name)
    return None
