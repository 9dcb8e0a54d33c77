"""Match tensors with other libraries' names to our networks, and find the normalisation they include."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.networks.weight_entries import first_three, normalisation_role, shown
from robustness_bench.benchmark.networks.weights import check_finite

if TYPE_CHECKING:
    from torch import Tensor, nn

    State = dict[str, Tensor]

_BEHIND = "1."
_PARTNERS = {"mean": "std", "std": "mean", "mu": "sigma", "sigma": "mu", "_mean": "_std", "_std": "_mean"}


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Weights under our names.

    Attributes:
        network: tensors of the network after the normalisation, named as in the whole model.
        mean, std: (1, C, 1, 1), the file's own normalisation; None if it has none.
        foreign: whether the names are those of other code, which may compute differently.
    """

    network: "State"
    mean: "Tensor | None"
    std: "Tensor | None"
    foreign: bool


def fit_weights(
    state: "Mapping[str, Tensor]", model: "nn.Module", where: str, *, plain: bool = False
) -> "State":
    """Convert ``state`` to the names, shapes and types of ``model``, for load_state_dict(strict=True).

    Args:
        state: as for ``match``.
        model: nn.Sequential(Normalize, network), as ``build_model`` makes it.
        where: the file, for errors.
        plain: the network was trained on images in [0, 1] (mean 0, deviation 1). Otherwise the model's own
            normalisation is kept.

    Raises:
        BenchError: as for ``match``; or ``plain`` is given and the file has a normalisation.
    """
    import torch

    matched, own = match(state, model, where), model.state_dict()
    if matched.mean is not None and matched.std is not None:
        if plain:
            raise BenchError(f"{where} has its own normalisation of pixels: leave plain out")
        return whole(matched, matched.mean, matched.std)
    if plain:
        return whole(matched, torch.zeros_like(own["0.mean"]), torch.ones_like(own["0.std"]))
    return whole(matched, own["0.mean"], own["0.std"])


def whole(matched: Matched, mean: "Tensor", std: "Tensor") -> "State":
    """Return all tensors of a model: a normalisation and the network's tensors."""
    return {"0.mean": mean.clone(), "0.std": std.clone(), **matched.network}


def match(state: "Mapping[str, Tensor]", model: "nn.Module", where: str) -> Matched:
    """Convert ``state`` to the names, shapes and types of ``model``.

    Args:
        state: tensors of the whole model or of only the network, with or without a common prefix. A
            normalisation is a pair of buffers mean (mu) and std (sigma), a number per channel. In a
            ResNet-18, stages may also be named layer1 to layer4, shortcuts downsample, the last layer fc.
            num_batches_tracked, which evaluation does not use, may be absent; AveragedModel's counter is
            ignored.
        model: nn.Sequential(Normalize, network), as ``build_model`` makes it.
        where: the file, for errors.

    Raises:
        BenchError: names, shapes or types differ from the model's, values exceed float32, or deviations
            are not positive.
    """
    target = model.state_dict()
    rest = {n: t for n, t in state.items() if n.rpartition(".")[2] != "n_averaged" or t.numel() != 1}
    rest, mean, std = _normalisation(rest, target["0.mean"], where)
    network = {name: like for name, like in target.items() if name.startswith(_BEHIND)}
    fits = [_Fit(rest, prefix, network) for prefix in _prefixes(rest)]
    fit = min(fits, key=lambda each: (each.misses, -len(each.prefix)))
    if problem := fit.problem():
        raise BenchError(f"{where} does not fit the model: {problem}")
    fitted = {name: _converted(fit.found.get(name), like) for name, like in network.items()}
    check_finite(fitted, where)
    return Matched(network=fitted, mean=mean, std=_positive(std, where), foreign=fit.foreign)


def _normalisation(
    state: "State", like: "Tensor", where: str
) -> "tuple[State, Tensor | None, Tensor | None]":
    """Return the state without its pair of mean and deviation, and that pair in the model's format."""
    pairs = []
    for name in state:
        start = name.rpartition(".")[0]
        if normalisation_role(name) == "mean":
            others = [n for n in state if n.rpartition(".")[0] == start and normalisation_role(n) == "std"]
            if len(others) == 1 and all(_per_channel(state[n], like) for n in (name, others[0])):
                pairs.append((name, others[0]))
    if len(pairs) != 1:
        _check_halves(state, like, where)
        return state, None, None
    mean, std = (state[name].to(like.dtype).reshape(1, -1, 1, 1).expand(like.shape) for name in pairs[0])
    return {n: t for n, t in state.items() if n not in pairs[0]}, mean, std


def _check_halves(state: "State", like: "Tensor", where: str) -> None:
    """Raise BenchError for a mean without its deviation, or the reverse."""
    for name in state:
        start, dot, last = name.rpartition(".")
        other = start + dot + _PARTNERS.get(last, "")
        if last in _PARTNERS and _per_channel(state[name], like) and other not in state:
            raise BenchError(
                f"{where} does not fit the model: 1 missing ({shown(other)}); a normalisation has a mean and "
                "a deviation"
            )


def _per_channel(tensor: "Tensor", like: "Tensor") -> bool:
    """Return whether the shape is (C,), (C, 1, 1), (1, C, 1, 1), or one number for all channels."""
    channels = like.shape[1]
    shapes: list[tuple[int, ...]] = [(channels,), (channels, 1, 1), (1, channels, 1, 1), (), (1,), (1, 1, 1)]
    return tensor.is_floating_point() and tuple(tensor.shape) in shapes


def _positive(std: "Tensor | None", where: str) -> "Tensor | None":
    if std is not None and not (std > 0).all():
        values = ", ".join(f"{value:g}" for value in std.flatten().tolist())
        raise BenchError(
            f"{where} has a normalisation with deviation {values}, which must be positive: fix the file"
        )
    return std


def _prefixes(state: "State") -> list[str]:
    """Return the empty prefix, and every prefix, up to a dot, that most names share."""
    prefixes = [""]
    while True:
        last = prefixes[-1]
        inside = [name.removeprefix(last) for name in state if name.startswith(last)]
        starts = Counter(name.partition(".")[0] for name in inside if "." in name)
        if not starts or 2 * starts.most_common(1)[0][1] <= len(state):
            return prefixes
        prefixes.append(f"{last}{starts.most_common(1)[0][0]}.")


class _Fit:
    """A file's names, without a prefix, compared with those of the network."""

    def __init__(self, state: "State", prefix: str, target: "State") -> None:
        self.prefix, self._target = prefix, target
        self.found: State = {}
        self._unexpected: list[str] = []
        self.foreign = False
        for name, tensor in state.items():
            plain = _BEHIND + name.removeprefix(prefix)
            own = _own_name(plain) if name.startswith(prefix) else ""
            if own in target and own not in self.found:
                self.found[own] = tensor
                self.foreign |= own != plain
            else:
                self._unexpected.append(name)
        missing = [name for name in target if name not in self.found]
        self._missing = [name for name in missing if not name.endswith(".num_batches_tracked")]
        self.misses = len(self._missing) + len(self._unexpected)

    def problem(self) -> str:
        """What does not match, with the remedy; empty if everything matches."""
        target = self._target
        lists = {
            "missing": [self._shown(name) for name in self._missing],
            "unexpected": self._unexpected,
            "of another shape": [
                f"{self._shown(name)} {_shape(tensor)} instead of {_shape(target[name])}"
                for name, tensor in self.found.items()
                if not _alike(tensor, target[name])
            ],
        }
        parts = [f"{len(names)} {kind} ({first_three(names)})" for kind, names in lists.items() if names]
        remedy = "" if self.misses else _remedy(self.found, target)
        remedy = remedy or "use weights of the same network (bench list models)"
        return f"{', '.join(parts)}; {remedy}" if parts else ""

    def _shown(self, name: str) -> str:
        """Return the name as it would be in the file."""
        return self.prefix + name.removeprefix(_BEHIND)


def _own_name(name: str) -> str:
    """Turn ResNet-18 names of kuangliu/pytorch-cifar and torchvision into ours: layer3.1 -> blocks.5."""
    name = re.sub(
        r"^1\.layer([1-4])\.([01])\.", lambda at: f"1.blocks.{2 * int(at[1]) - 2 + int(at[2])}.", name
    )
    name = re.sub(r"^(1\.blocks\.\d\.)downsample\.", r"\1shortcut.", name)
    return re.sub(r"^1\.fc\.", "1.linear.", name)


def _remedy(found: "State", target: "State") -> str:
    """Derive a remedy from the first convolution and the last layer of a file that otherwise matches."""
    first = next(name for name, tensor in target.items() if tensor.ndim == 4)
    conv, own_conv = found[first], target[first]
    last = [name for name in target if name.endswith(".bias")][-1]
    head, own_head = found[last], target[last]
    told = []
    if conv.ndim == 4 and len(conv) != len(own_conv):
        told.append(f"the file has width {len(conv)}: pass --width {len(conv)}")
    if conv.ndim == 4 and conv.shape[1] != own_conv.shape[1]:
        told.append(f"the file is for images of {conv.shape[1]} channels: choose its --dataset")
    if conv.ndim == 4 and conv.shape[2:] == (7, 7):
        told.append("its first kernels are 7×7, for images of 224×224: bring its code with --network")
    if head.ndim == 1 and len(head) != len(own_head):
        told.append(f"the file is for {len(head)} classes: choose its --dataset")
    return "; ".join(told)


def _alike(tensor: "Tensor", like: "Tensor") -> bool:
    same_kind = tensor.is_floating_point() == like.is_floating_point() and not tensor.is_complex()
    return same_kind and tensor.shape == like.shape


def _shape(tensor: "Tensor") -> str:
    sizes = "×".join(map(str, tensor.shape)) or "scalar"
    return f"{sizes} {str(tensor.dtype).removeprefix('torch.')}"


def _converted(tensor: "Tensor | None", like: "Tensor") -> "Tensor":
    import torch

    if tensor is None:
        return torch.zeros_like(like)
    return tensor.detach().to(like.dtype, copy=True).contiguous()
