"""Addresses and ports."""

import socket


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
