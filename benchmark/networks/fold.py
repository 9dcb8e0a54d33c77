"""Batch norm folded into the convolution before it: the same function in evaluation mode, faster."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from robustness_bench.benchmark.networks.resnet import BasicBlock, ResNet18
from robustness_bench.benchmark.networks.vgg import VGG19

_KEPT: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
"""The copies of ``refolded``."""
_OURS = ("torch.nn.", f"{__package__}.")  # modules that are what their tensors say, and nothing else


def folded(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in evaluation mode, without the batch norms of our own architectures.

    In these every batch norm directly follows its convolution; other modules are left unchanged. The copy
    shares nothing with the model: after further training, fold again.
    """
    copied = copy.deepcopy(model).eval()
    for pair in list(_foldable(copied)):
        copied.set_submodule(pair.first, fuse_conv_bn_eval(pair.conv, pair.norm))
        copied.set_submodule(pair.then, nn.Identity())
    return copied


def refolded(model: nn.Module) -> nn.Module:
    """Return ``folded(model)`` frozen, in one copy that each call for this model brings up to date.

    Copying a network costs a training step more than the weights' folding does. A network of others,
    whose state may be more than tensors, is copied anew.
    """
    if (kept := _KEPT.get(model)) is None:
        kept = folded(model).requires_grad_(False)
        if all(f"{type(module).__module__}.".startswith(_OURS) for module in model.modules()):
            _KEPT[model] = kept
        return kept
    state = model.state_dict()
    for first, then, _, norm in _foldable(model):
        of_norm = {name: state.pop(f"{then}.{name}") for name in norm.state_dict()}
        weight, bias = f"{first}.weight", f"{first}.bias"
        state[weight], state[bias] = fuse_conv_bn_weights(
            state[weight],
            state.get(bias),
            of_norm["running_mean"],
            of_norm["running_var"],
            norm.eps,
            of_norm["weight"],
            of_norm["bias"],
        )
    kept.load_state_dict(state)
    return kept


class _Pair(NamedTuple):
    """A convolution and the batch norm that follows it, with their names."""

    first: str
    then: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d


def _foldable(model: nn.Module) -> Iterator[_Pair]:
    for path, module in model.named_modules():
        if isinstance(module, ResNet18 | VGG19 | BasicBlock):
            yield from _pairs(module, f"{path}." if path else "")


def _pairs(module: nn.Module, path: str) -> Iterator[_Pair]:
    children = list(module.named_children())
    for (name, first), (next_name, second) in pairwise(children):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            yield _Pair(path + name, path + next_name, first, second)
    for name, child in children:
        if isinstance(child, nn.Sequential):
            yield from _pairs(child, f"{path}{name}.")
