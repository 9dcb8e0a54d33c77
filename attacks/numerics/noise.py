"""Random numbers that belong to a sample, not to a batch.

A counter-based generator (the idea of Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3", with the SplitMix64 finaliser of Steele et al. 2014 as its mixing function): the value at
(key, draw, position) is a hash of the three. So the noise of one sample is the same whatever batch,
order, shard, resumed run or device it is computed in, and no global state is read or written.
"""

import hashlib
import math
import random
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical (not sign-extending) right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """SplitMix64 finaliser: a bijection of int64 whose output bits look independent of its input."""
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def key_of(*parts: object) -> int:
    """Return a signed 64-bit key from anything with a stable ``str``; the same in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class Noise:
    """Noise for a batch of N samples, one int64 key each.

    Args:
        keys: (N,) int64; equal keys give equal noise.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    @classmethod
    def for_samples(cls, ids: Tensor, *stream: object) -> "Noise":
        """Return noise for the samples ``ids`` (N,) int64 in the named ``stream`` (seed, attack, …)."""
        return cls(mix(mix(ids) + key_of(*stream)))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Tensor) -> "Noise":
        """The noise of a subset of the samples (mask or indices)."""
        return Noise(self.keys[rows])

    def stream(self, key: Tensor | int) -> "Noise":
        """Other noise of the same samples: of one key, or of a key for each, (N,) int64."""
        return Noise(mix(self.keys + key))

    def _bits(self, shape: tuple[int, ...], draw: int | Tensor) -> Tensor:
        positions = torch.arange(math.prod(shape), device=self.keys.device)
        keys = mix(self.keys + mix(torch.as_tensor(draw, device=self.keys.device)))[:, None]
        # 23 bits: with the half that ``uniform`` adds, float32 holds each exactly, so none becomes 0 or 1.
        bits: Tensor = _shift_right(mix(mix(keys + positions * _GOLDEN)), 41)
        return bits.reshape(len(self), *shape)

    def uniform(self, shape: tuple[int, ...], *, draw: int | Tensor = 0) -> Tensor:
        """Uniform on (0, 1), float32 (N, *shape); another ``draw`` is another independent sample.

        Args:
            draw: of all samples, or of each, (N,) int64.
        """
        return (self._bits(shape, draw).float() + 0.5) * 2.0**-23

    def normal(self, shape: tuple[int, ...], *, draw: int = 0) -> Tensor:
        """Standard normal, float32 (N, *shape), by Box and Muller (1958)."""
        pair = self.uniform((2, *shape), draw=draw)
        return (-2.0 * pair[:, 0].log()).sqrt() * (2.0 * math.pi * pair[:, 1]).cos()


class NoiseOfSamples(TorchFunctionMode):
    """Inside this context, a library's image-shaped random numbers come from ``noise``, per sample.

    Numbers that a model draws for all samples together depend on how many were drawn before.
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self._noise, self._draws = noise, 0
        self._shared = random.Random(key_of("shared"))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.rand and func is not torch.randn:
            return func(*args, **(kwargs or {}))
        shape, options = _shape_and_options(args, kwargs or {})
        if len(shape) == 4 and shape[0] == len(self._noise):
            self._draws += 1
            draw = self._noise.uniform if func is torch.rand else self._noise.normal
            return draw(shape[1:], draw=self._draws).to(**options)
        one = self._shared.random if func is torch.rand else lambda: self._shared.gauss(0.0, 1.0)
        return torch.tensor([one() for _ in range(math.prod(shape))]).reshape(shape).to(**options)


def _shape_and_options(args: tuple[Any, ...], kwargs: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Read torch.rand(2, 3), torch.rand((2, 3)) or torch.rand(size=(2, 3)); a model may use any form."""
    size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
    return tuple(size), {key: kwargs[key] for key in ("dtype", "device") if kwargs.get(key) is not None}
