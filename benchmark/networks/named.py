"""Networks of timm and torchvision by name, with their weights, their normalisation and their input size."""

import difflib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustness_bench.benchmark.errors import BenchError, first_line, unknown
from robustness_bench.benchmark.networks.weight_entries import shown
from robustness_bench.benchmark.networks.weights import check_finite, quiet, read_weights
from robustness_bench.benchmark.parts import part

if TYPE_CHECKING:
    from torch import nn

    from robustness_bench.benchmark.data.base import DatasetInfo

TIMM, TORCHVISION = "timm:", "torchvision:"
NAMED = (TIMM, TORCHVISION)


class Named(NamedTuple):
    """A network by name.

    Attributes:
        name: with what says which weights: timm:resnet18.a1_in1k, torchvision:resnet18@IMAGENET1K_V1.
        file: weights of one's own for it; None for the published ones.
    """

    name: str
    file: Path | None


class _Input(NamedTuple):
    """What a network expects: images of this size, scaled so, with this mean and deviation."""

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@cache
def parse(source: str) -> Named:
    """Return the network that ``timm:NAME[@FILE]`` or ``torchvision:NAME[@WEIGHTS]`` names.

    Raises:
        BenchError: the library is not installed, or has no such network, or no weights for it.
    """
    with quiet():
        return _of_timm(source) if source.startswith(TIMM) else _of_torchvision(source)


def _of_timm(source: str) -> Named:
    timm = part("timm", "timm", f"--weights {source}")
    name, _, file = source.removeprefix(TIMM).partition("@")
    if name.startswith("hf-hub:"):
        return Named(f"{TIMM}{name}", Path(file) if file else None)
    if not timm.is_model(name):
        raise _no_such("network of timm", name, timm.list_models())
    if file:
        return Named(f"{TIMM}{name}", Path(file))
    if not timm.models.is_model_pretrained(name):
        raise BenchError(f"timm has no weights for {name}: name a file of them, timm:{name}@FILE")
    tag = timm.models.get_pretrained_cfg(name).tag
    return Named(f"{TIMM}{name}" if "." in name or not tag else f"{TIMM}{name}.{tag}", None)


def _of_torchvision(source: str) -> Named:
    from torchvision import models

    name, _, wanted = source.removeprefix(TORCHVISION).partition("@")
    networks = models.list_models(module=models)
    if name not in networks:
        raise _no_such("network of torchvision", name, networks)
    published = models.get_model_weights(name)
    if wanted and wanted not in published.__members__:
        raise unknown(f"weights of torchvision's {name}", wanted, published.__members__)
    weights = published[wanted] if wanted else published.DEFAULT
    return Named(f"{TORCHVISION}{name}@{weights.name}", None)


def _no_such(kind: str, name: str, known: list[str]) -> BenchError:
    near = difflib.get_close_matches(name, known, n=8, cutoff=0.4)
    return unknown(kind, shown(name), [*near, f"{len(known)} in all, which its list_models() names"])


def load_named(named: Named, info: "DatasetInfo") -> "nn.Module":
    """Return a network with its weights, as ``build_named`` does.

    Raises:
        BenchError: as there; or the weights are neither cached nor within reach, or do not fit.
    """
    model = build_named(named.name, info, own=named.file is not None, published=named.file is None)
    if named.file is not None:
        state = read_weights(named.file)
        try:
            model[-1].load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise BenchError(f"{named.file} does not fit {named.name}: {shown(first_line(error))}") from error
    check_finite(model.state_dict(), named.name)
    return model


def build_named(name: str, info: "DatasetInfo", *, own: bool, published: bool = False) -> "nn.Sequential":
    """Return a network for images of ``info`` in [0, 1]; resizing and normalisation are its first layers.

    So attacks and budgets are in the pixels of the data set, whatever the network's input size. The whole
    image is resized, with antialiasing; nothing is cropped.

    Args:
        name: ``Named.name``.
        own: the weights will be a file of the user's, for the classes of ``info``.
        published: load the published weights; otherwise they are random.

    Raises:
        BenchError: the network is for other images or classes, or its weights are out of reach.
    """
    import torch
    from torch import nn

    from robustness_bench.benchmark.networks.layers import Normalize, Resize

    make = _timm if name.startswith(TIMM) else _torchvision
    with quiet():
        try:
            network, expects = make(name, info, own, published)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise BenchError(
                f"{name} cannot be loaded ({shown(first_line(error))}): where its weights are not cached, "
                "fetch them where there is a network"
            ) from error
    channels = len(expects.mean)
    with torch.no_grad():
        classes = network.eval()(torch.zeros(1, channels, expects.size, expects.size)).shape[1]
    if (channels, classes) != (info.channels, info.classes):
        raise BenchError(
            f"{name} is for images of {channels} channels and {classes} classes, {info.name} has "
            f"{info.channels} and {info.classes}: choose its --dataset, or give weights of your own, "
            "timm:NAME@FILE"
        )
    first = [] if expects.size == info.size else [Resize(expects.size, expects.interpolation)]
    return nn.Sequential(*first, Normalize(expects.mean, expects.std), network).eval().requires_grad_(False)


def _timm(name: str, info: "DatasetInfo", own: bool, published: bool) -> "tuple[nn.Module, _Input]":
    timm = part("timm", "timm", f"--weights {name}")
    shape = {"num_classes": info.classes, "in_chans": info.channels} if own else {}
    network: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=published, **shape)
    about: dict[str, Any] = timm.data.resolve_model_data_config(network)
    mean, std = (tuple(map(float, about[key])) for key in ("mean", "std"))
    if own and len(set(mean)) == len(set(std)) == 1:  # the same in every channel, however many
        mean, std = mean[:1] * info.channels, std[:1] * info.channels
    return network, _Input(int(about["input_size"][-1]), about["interpolation"], mean, std)


def _torchvision(name: str, info: "DatasetInfo", own: bool, published: bool) -> "tuple[nn.Module, _Input]":
    from torchvision import models

    bare, _, wanted = name.removeprefix(TORCHVISION).partition("@")
    weights = models.get_model_weights(bare)[wanted]
    about = weights.transforms()
    network: nn.Module = models.get_model(bare, weights=weights if published else None)
    return network, _Input(about.crop_size[0], about.interpolation.value, tuple(about.mean), tuple(about.std))
