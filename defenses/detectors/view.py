"""A batch and the networks' outputs for it, each computed once and only on request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Protocol, cast

import torch
from torch import Tensor, nn


class DetectorError(ValueError):
    """Invalid scores or settings of a detector: one line with the value and the remedy."""


class Generator(Protocol):
    """What a detector needs from a part that generates images of a class."""

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, Z)."""
        ...

    def decode(self, code: Tensor, classes: Tensor) -> Tensor:
        """(N, Z), (N,) int64 -> (N, C, H, W) in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks behind a batch's scores, in evaluation mode.

    Attributes:
        classifier: images -> logits (N, K).
        parts: name -> auto-encoder, images -> images, or ``Generator``.
    """

    classifier: nn.Module
    parts: Mapping[str, nn.Module]

    def part(self, name: str) -> nn.Module:
        """Return one of ``parts``.

        Raises:
            DetectorError: there is no such part.
        """
        if name not in self.parts:
            known = ", ".join(sorted(self.parts)) or "none"
            raise DetectorError(f"there is no part {name!r} (there are: {known}); train it, or name another")
        return self.parts[name]


def _once(make: Callable[["View", str], Tensor]) -> Callable[["View", str], Tensor]:
    """Let a view make something of a part when it is first asked for, and keep it."""

    @wraps(make)
    def kept(view: "View", part: str) -> Tensor:
        key = make.__name__, part
        if key not in view._made:
            view._made[key] = make(view, part)
        return view._made[key]

    return kept


class View:
    """Networks' outputs for images x (N, C, H, W) in [0, 1]; gradients flow unless the caller stops them."""

    def __init__(self, x: Tensor, networks: Networks) -> None:
        self.x = x
        self.networks = networks
        self._made: dict[tuple[str, str], Tensor] = {}

    @cached_property
    def logits(self) -> Tensor:
        """Z(x), (N, K)."""
        return self._classified(self.x)

    @_once
    def rebuilt(self, part: str) -> Tensor:
        """AE(x) clipped to [0, 1], (N, C, H, W)."""
        return self._like_x(part, self.networks.part(part)(self.x)).clamp(0, 1)

    @_once
    def rebuilt_logits(self, part: str) -> Tensor:
        """Z(AE(x)), (N, K)."""
        return self._classified(self.rebuilt(part))

    @_once
    def code(self, part: str) -> Tensor:
        """E(x), (N, Z)."""
        return self._generator(part).encode(self.x)

    @_once
    def conditional(self, part: str) -> Tensor:
        """G(E(x), j) under every class j, (N, K, C, H, W)."""
        n, k = self.logits.shape
        classes = torch.arange(k, device=self.x.device).repeat(n)
        images = self._generator(part).decode(self.code(part).repeat_interleave(k, 0), classes)
        return images.reshape(n, k, *self.x.shape[1:])

    @_once
    def conditional_logits(self, part: str) -> Tensor:
        """Z(G(E(x), j))_i as [n, j, i], (N, K, K): one batch of N · K images."""
        n, k = self.logits.shape
        return self._classified(self.conditional(part).flatten(0, 1)).reshape(n, k, k)

    def generated(self, part: str, classes: Tensor) -> Tensor:
        """G(E(x), classes) of one class for each image, (N,) int64 -> (N, C, H, W); not kept."""
        return self._like_x(part, self._generator(part).decode(self.code(part), classes))

    def generated_logits(self, part: str, classes: Tensor) -> Tensor:
        """Z(G(E(x), classes)), (N, K); not kept."""
        return self._classified(self.generated(part, classes))

    def _generator(self, part: str) -> Generator:
        return cast(Generator, self.networks.part(part))

    def _classified(self, images: Tensor) -> Tensor:
        logits: Tensor = self.networks.classifier(images)
        return logits

    def _like_x(self, part: str, images: Tensor) -> Tensor:
        if images.shape != self.x.shape:  # otherwise it would broadcast into a wrong score
            made, given = tuple(images.shape), tuple(self.x.shape)
            raise DetectorError(f"part {part!r} makes images {made} from {given}; train it on this data set")
        return images
