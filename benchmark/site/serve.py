"""Serve a site on this machine, only to this machine."""

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from robustness_bench.benchmark.errors import BenchError

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: one line per file would bury the address."""


def server(site: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of ``site``, bound but not yet serving; port 0 takes any free port.

    Raises:
        BenchError: no site there, or the port is taken.
    """
    if not (site / "index.html").is_file():
        raise BenchError(f"no site in {site}: `bench leaderboard build --out {site}` writes one")
    if not 0 <= port <= 65535:
        raise BenchError(f"--port must be between 0 and 65535, got {port}")
    handler = functools.partial(_Handler, directory=str(site))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise BenchError(f"cannot serve on port {port}: {error.strerror}; choose another --port") from error
