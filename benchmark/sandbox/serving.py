"""The model's answers to a submitted attack; everything from its process is checked before use."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from robustness_bench.benchmark.sandbox.confinement import Allowance
from robustness_bench.benchmark.sandbox.failures import SubmittedAttackError
from robustness_bench.benchmark.sandbox.untrusted import raw
from robustness_bench.benchmark.sandbox.wire import Frame, WireError

AT_ONCE = 1024
"""Most images in one pass, unless more are under attack; graphs of twice as many are kept for gradients."""
_BYTES = 4  # of a float32


class Desk:
    """Answers the passes that a confined attack on N images requests.

    Args:
        x: (N, C, H, W), the images under attack.
    """

    def __init__(self, model: nn.Module, x: Tensor, allowance: Allowance) -> None:
        self._model, self._device, self._image = model, x.device, tuple(x.shape[1:])
        self._allowed = Allowance(*(len(x) * passes for passes in allowance))
        self._allowance = allowance
        self._taken = Allowance(0, 0)
        self._graphs: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()
        self.most = max(AT_ONCE, len(x))
        self.longest = _BYTES * self.most * max(x[0].numel(), AT_ONCE)

    def answer(self, request: Frame) -> tuple[dict[str, Any], memoryview]:
        """Return the answer to one request.

        Raises:
            SubmittedAttackError: it is not for valid images, or too many passes were requested.
            WireError: it is not a request.
        """
        header, payload = request
        token, released = header.get("token"), header.get("release")
        if type(token) is not int or not isinstance(released, list):
            raise WireError("a request without a number")
        for each in released:
            if type(each) is int:
                self._graphs.pop(each, None)
        if header.get("kind") == "forward":
            return {"kind": "logits"}, raw(self._forward(token, payload, header.get("gradient") is True))
        return {"kind": "gradient"}, raw(self._backward(token, payload))

    def _forward(self, token: int, payload: bytearray, gradient: bool) -> Tensor:
        x = self._images(payload)
        self._take(Allowance(len(x), 0))
        x.requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            logits: Tensor = self._model(x)
        if gradient:
            self._keep(token, x, logits)
        return logits.float()

    def _images(self, payload: bytearray) -> Tensor:
        size = _BYTES * torch.Size(self._image).numel()
        if not payload or len(payload) % size or len(payload) > size * self.most:
            raise SubmittedAttackError(
                "query", f"it asked for {len(payload)} bytes, which are not 1 to {self.most} images"
            )
        x = torch.frombuffer(payload, dtype=torch.float32).reshape(-1, *self._image)
        if not torch.isfinite(x).all():
            raise SubmittedAttackError("query", "it asked for images with values that are not finite")
        return x.to(self._device)

    def _keep(self, token: int, x: Tensor, logits: Tensor) -> None:
        self._graphs[token] = (x, logits)
        while len(self._graphs) > 1 and sum(len(each) for each, _ in self._graphs.values()) > 2 * self.most:
            self._graphs.popitem(last=False)

    def _backward(self, token: int, payload: bytearray) -> Tensor:
        if token not in self._graphs:
            raise SubmittedAttackError(
                "query",
                f"only the latest {2 * self.most} images asked for are kept for gradients, take them sooner",
            )
        x, logits = self._graphs[token]
        if len(payload) != _BYTES * logits.numel():
            raise SubmittedAttackError("query", "it sent a gradient of another size than the logits")
        self._take(Allowance(0, len(x)))
        seed = torch.frombuffer(payload, dtype=torch.float32).reshape(logits.shape).to(self._device)
        (gradient,) = torch.autograd.grad(logits, x, seed.to(logits.dtype), retain_graph=True)
        return gradient

    def _take(self, passes: Allowance) -> None:
        self._taken = Allowance(*map(sum, zip(self._taken, passes, strict=True)))
        for name, taken, allowed, each in zip(
            ("forward", "backward"), self._taken, self._allowed, self._allowance, strict=True
        ):
            if taken > allowed:
                raise SubmittedAttackError("passes", f"it took more than {each} {name} passes for an image")
