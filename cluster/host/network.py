"""Addresses, ports and network interfaces of hosts."""

import ipaddress
import socket

import psutil


def free_port() -> int:
    """Find a TCP port that nobody on this host listens on now; somebody may before it is used."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def answers(address: str, *, timeout_seconds: float = 5.0) -> bool:
    """Return whether something accepts TCP connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_seconds):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or address, is the loopback of this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def interface_of(address: str) -> str | None:
    """Return the name of this host's network interface that has an address; None if none has."""
    for name, held in psutil.net_if_addrs().items():
        if address in (one.address.partition("%")[0] for one in held):
            return str(name)
    return None
