"""Seed the global generators by a key, for dropout, other random layers and initial weights."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from robustness_bench.attacks.numerics.noise import key_of


@contextmanager
def keyed(device: torch.device, *stream: object) -> Iterator[None]:
    """Seed every global generator by the stream's name, and restore them afterwards.

    These are torch's for the CPU and for ``device``, NumPy's and Python's: networks and defenses from outside
    may draw from any of them. So what they draw does not depend on earlier work in this process.

    Args:
        device: a CPU or CUDA device; generators of other GPUs are not touched.
        stream: anything with a stable ``str``, as in `key_of`.
    """
    key, cuda = key_of(*stream), [device] if device.type == "cuda" else []
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(cuda, device_type="cuda"):
        torch.default_generator.manual_seed(key)  # torch.manual_seed would also seed every GPU
        for each in cuda:
            index = torch.cuda.current_device() if each.index is None else each.index
            torch.cuda.default_generators[index].manual_seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
