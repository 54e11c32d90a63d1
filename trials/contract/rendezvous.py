"""Where the ranks of a probe meet."""

import socket


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as candidate:
        candidate.bind(("", 0))
        port: int = candidate.getsockname()[1]
        return port
