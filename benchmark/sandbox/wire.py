"""Messages between the benchmark and submitted code: frames of a JSON header and raw bytes.

A frame is b"RBM1", the header's length (uint32), the payload's length (uint64), both little-endian, then
header and payload. Received data is never executed, and never read beyond the agreed length.
"""

import json
import os
import select
import struct
import time
from typing import Any, NamedTuple

_PREFIX = struct.Struct("<4sIQ")
_MAGIC = b"RBM1"
HEADER_LIMIT = 65_536  # bytes
_SET_PIPE_SIZE, _PIPE_SIZE = 1031, 2**20


class WireError(Exception):
    """The received data is not a frame, or not the expected one."""


class Closed(Exception):  # noqa: N818 - not an error where it is expected
    """The other side has closed its end."""


class Late(Exception):  # noqa: N818
    """The deadline has passed."""


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    payload: bytearray


class Channel:
    """Two pipe ends. ``deadline`` is a time of ``time.monotonic()``; None waits for ever."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        for end in (reading, writing):
            os.set_blocking(end, False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(reading, select.POLLIN)
        self._writable.register(writing, select.POLLOUT)

    def send(
        self, header: dict[str, Any], payload: bytes | memoryview = b"", deadline: float | None = None
    ) -> None:
        """Write one frame.

        Raises:
            Closed, Late
        """
        text = json.dumps(header).encode()
        body = memoryview(payload).cast("B")
        for part in (memoryview(_PREFIX.pack(_MAGIC, len(text), len(body)) + text), body):
            self._write(part, deadline)

    def receive(self, longest: int, deadline: float | None = None) -> Frame:
        """Read one frame whose payload has at most ``longest`` bytes.

        Raises:
            WireError, Closed, Late
        """
        magic, header_length, payload_length = _PREFIX.unpack(self._read(_PREFIX.size, deadline))
        if magic != _MAGIC:
            raise WireError("bytes that are no message")
        if header_length > HEADER_LIMIT or payload_length > longest:
            raise WireError(f"a message of {header_length} + {payload_length} bytes, which is too long")
        header = _parsed(self._read(header_length, deadline))
        return Frame(header, self._read(payload_length, deadline))

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)

    def _write(self, part: memoryview, deadline: float | None) -> None:
        while part:
            _wait(self._writable, deadline)
            try:
                part = part[os.write(self._writing, part) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Closed from error

    def _read(self, length: int, deadline: float | None) -> bytearray:
        content = bytearray(length)
        rest = memoryview(content)
        while rest:
            _wait(self._readable, deadline)
            try:
                count = os.readv(self._reading, [rest])
            except BlockingIOError:
                continue
            except OSError as error:
                raise Closed from error
            if not count:
                raise Closed
            rest = rest[count:]
        return content


def widen(descriptor: int) -> None:
    """Enlarge a pipe's buffer if possible, for fewer switches between the processes."""
    import fcntl

    try:
        fcntl.fcntl(descriptor, _SET_PIPE_SIZE, _PIPE_SIZE)
    except OSError:
        return


def _wait(ready: select.poll, deadline: float | None) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    if not ready.poll(None if left is None else 1000 * left) and left is not None:
        raise Late


def _parsed(text: bytearray) -> dict[str, Any]:
    try:
        header = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise WireError("a message whose header is no JSON") from error
    if not isinstance(header, dict):
        raise WireError("a message whose header is no table")
    return header
