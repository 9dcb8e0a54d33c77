"""The confined process: builds the submitted model and runs its passes, or runs a submitted attack.

Everything here is trusted up to the line that imports the submitted file, and nothing after it.
"""

import json
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from robustness_bench.benchmark.sandbox import attack_child
from robustness_bench.benchmark.sandbox.confinement import Limits, confine, limit_memory
from robustness_bench.benchmark.sandbox.untrusted import (
    ATTACK,
    MODEL,
    Refused,
    imported,
    kind,
    raw,
    refuse,
    words,
)
from robustness_bench.benchmark.sandbox.wire import Channel, Closed, Frame

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
KEPT = 16
"""Number of forward passes' graphs that are kept for a backward pass."""


def main() -> None:
    """Serve the file that the first argument describes until the other side closes the pipe."""
    settings = json.loads(sys.argv[1])
    channel = Channel(settings["reading"], settings["writing"])
    try:
        _serve(settings, channel)
    except Closed:
        pass
    except Refused as refusal:
        channel.send({"kind": "error", "stage": refusal.stage, "text": refusal.text})
    os._exit(0)  # and not what the submitted code may have registered for the exit


def _serve(settings: dict[str, Any], channel: Channel) -> None:
    limits = Limits(**settings["limits"])
    statistics = _own_statistics()
    try:
        confine(
            Path.cwd(),
            limits,
            parent=settings["parent"],
            packages=Path(settings["packages"]),
            device=settings["device"],
        )
    except (OSError, KeyError) as error:
        raise Refused("confine", words(error)) from error
    if settings["packages"] not in sys.path:  # a user's own folder of packages: -I leaves it out
        sys.path.append(settings["packages"])
    import torch

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    state = _weights()
    if statistics is not None:
        limit_memory(_private(statistics), limits)
    channel.send({"kind": "confined"})
    channel.receive(0)
    if settings["file"] == ATTACK:
        attack_child.serve(channel)
    _serve_model(settings, channel, state)


def _serve_model(settings: dict[str, Any], channel: Channel, state: "dict[str, Tensor] | None") -> NoReturn:
    shape = {name: settings[name] for name in ("classes", "channels", "size")}
    module = _built(shape, state, settings["device"])
    channel.send({"kind": "ready"})
    server = _Server(module, settings["device"], settings["channels"], settings["size"], settings["classes"])
    while True:
        header, payload = server.answer(channel.receive(sys.maxsize))
        channel.send(header, payload)


def _own_statistics() -> int | None:
    """Open this process's /proc/self/statm while that is still allowed; None if it does not exist."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _private(statistics: int) -> int:
    """Return the bytes of private memory, as RLIMIT_DATA counts them; closes the file."""
    pages = int(os.pread(statistics, 200, 0).split()[5])
    os.close(statistics)
    return pages * os.sysconf("SC_PAGE_SIZE")


def _weights() -> "dict[str, Tensor] | None":
    """Read the tensors from the scratch folder, and delete the file."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(WEIGHTS)
    if not path.exists():
        return None
    try:
        state = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Refused("weights", f"no safetensors file ({words(error)})") from error
    path.unlink()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise Refused("weights", f"{name} has values that are not finite")
    return state


def _built(shape: dict[str, int], state: "dict[str, Tensor] | None", device: str) -> "nn.Module":
    from torch import nn

    build = getattr(imported(MODEL), "build", None)
    if not callable(build):
        raise Refused("build", "there is no function build(*, classes, channels, size)")
    try:
        module = build(**shape)
    except BaseException as error:
        refuse("build", error)
    if not isinstance(module, nn.Module):
        raise Refused("build", f"build() returned {kind(module)}, not a torch.nn.Module")
    try:
        if state is not None:
            module.load_state_dict(state, strict=True)
        module.to(device)
        module.eval()
        module.requires_grad_(False)
    except BaseException as error:
        refuse("weights", error)
    return module


class _Server:
    """A model and the graphs of its latest forward passes."""

    def __init__(self, module: "nn.Module", device: str, channels: int, size: int, classes: int) -> None:
        self._module, self._device, self._classes = module, device, classes
        self._image = (channels, size, size)
        self._graphs: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def answer(self, request: Frame) -> tuple[dict[str, Any], bytes | memoryview]:
        header, payload = request
        for token in header["release"]:
            self._graphs.pop(token, None)
        try:
            if header["kind"] == "forward":
                return self._forward(header["token"], payload, header["gradient"])
            return self._backward(header["token"], payload)
        except Refused as refusal:
            failed = refusal
        except Exception as error:
            failed = Refused("output", words(error))
        told = {"kind": "error", "token": header["token"], "stage": failed.stage, "text": failed.text}
        return told, b""

    def _forward(
        self, token: int, payload: bytearray, gradient: bool
    ) -> tuple[dict[str, Any], bytes | memoryview]:
        import torch

        x = torch.frombuffer(payload, dtype=torch.float32).reshape(-1, *self._image).to(self._device)
        x.requires_grad_(gradient)
        try:
            with torch.set_grad_enabled(gradient):
                logits = self._module(x)
        except BaseException as error:
            refuse("forward", error)
        self._check(logits, len(x))
        graph = bool(gradient and logits.requires_grad)
        if graph:
            self._graphs[token] = (x, logits)
            while len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        return {"kind": "logits", "token": token, "graph": graph}, raw(logits)

    def _check(self, logits: Any, n: int) -> None:
        import torch

        if not isinstance(logits, torch.Tensor):
            raise Refused("output", f"the model returned {kind(logits)}, not a tensor")
        if logits.shape != (n, self._classes) or logits.layout != torch.strided:
            shape = tuple(logits.shape)
            raise Refused(
                "output", f"the model returned shape {shape} for {n} images, not ({n}, {self._classes})"
            )
        if logits.dtype != torch.float32:
            raise Refused("output", f"the model returned {logits.dtype}, not torch.float32")

    def _backward(self, token: int, payload: bytearray) -> tuple[dict[str, Any], bytes | memoryview]:
        import torch

        if token not in self._graphs:
            raise Refused("backward", f"only the graphs of the latest {KEPT} forward passes are kept")
        x, logits = self._graphs[token]
        seed = torch.frombuffer(payload, dtype=torch.float32).reshape(logits.shape).to(self._device)
        try:
            (gradient,) = torch.autograd.grad(logits, x, seed, retain_graph=True, allow_unused=True)
        except BaseException as error:
            refuse("backward", error)
        header = {"kind": "gradient", "token": token, "missing": gradient is None}
        return header, b"" if gradient is None else raw(gradient)
