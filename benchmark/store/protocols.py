"""The protocols of a folder's results: a file each, with every key, which records name by its hash."""

import hashlib
from pathlib import Path

from robustness_bench.benchmark.files import write_atomic
from robustness_bench.benchmark.plan.layers import to_toml
from robustness_bench.benchmark.plan.protocol import Protocol

_DIGITS = 12


def protocol_name(content: bytes) -> str:
    """Return what records call a protocol file with this content."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def protocol_file(out: Path, protocol: Protocol | str) -> Path:
    """Return where a protocol, or the one of this name, is kept; ``bench run --config`` takes the file."""
    name = protocol if isinstance(protocol, str) else protocol_name(_content(protocol))
    return out / "protocols" / f"{name}.toml"


def keep_protocol(out: Path, protocol: Protocol) -> str:
    """Write a protocol unless it is there, and return its name."""
    path = protocol_file(out, protocol)
    if not path.is_file():
        write_atomic(path, _content(protocol))
    return path.stem


def _content(protocol: Protocol) -> bytes:
    return to_toml(protocol.resolved).encode()
