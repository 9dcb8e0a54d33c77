"""Select the weights among a file's tensors: one state dict, named if there are several."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.errors import BenchError, printable

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

_WRAPPERS = ("module.", "_orig_mod.")
_NO_WEIGHTS = ("optim", "sched", "scaler")  # a key with one of these holds training state, not weights
_MEANS, _STDS = ("mean", "mu", "_mean"), ("std", "sigma", "_std")


def chosen(content: Any, entry: str, where: str) -> "State":
    """Return the only set of weights in a file's content, or the one named ``entry``.

    Raises:
        BenchError: there is none, there are several, or none has that name.
    """
    sets, beside = _networks(dict(_sets(content, "")))
    if not sets:
        raise _no_tensors(content, where)
    sets = _twins(sets) if len(sets) == 1 else sets
    name = _named(sets, entry, where) if entry else _only(sets, where)
    return beside | _unwrapped(sets[name])


def _sets(content: Any, path: str) -> "Iterator[tuple[str, State]]":
    """Yield every mapping with tensors in it, with its dotted path."""
    if not isinstance(content, Mapping):
        return
    tensors = {str(name): value.detach() for name, value in content.items() if _is_held(value)}
    if tensors:
        yield path, tensors
    for key, value in content.items():
        if isinstance(key, str) and not any(word in key.lower() for word in _NO_WEIGHTS):
            yield from _sets(value, f"{path}.{key}".removeprefix("."))


def _is_held(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _networks(sets: "dict[str, State]") -> "tuple[dict[str, State], State]":
    """Return the sets that have a matrix, without duplicates, and a normalisation outside them."""
    real = {path: state for path, state in sets.items() if any(t.ndim >= 2 for t in state.values())}
    real = {path: state for path, state in real.items() if any(map(_is_weight, state.items()))} or real
    if not real:
        real = {path: state for path, state in sets.items() if any(t.ndim for t in state.values())}
    rest = [state for path, state in sets.items() if path not in real]
    beside = {name: t for state in rest for name, t in state.items() if normalisation_role(name)}
    return _distinct(real), beside


def _is_weight(named: "tuple[str, Tensor]") -> bool:
    return named[1].ndim >= 2 and not normalisation_role(named[0])


def normalisation_role(name: str) -> str:
    """Return "mean" or "std" if a buffer's name is that of a pixel normalisation, else ""."""
    last = name.rpartition(".")[2]
    return "mean" if last in _MEANS else "std" if last in _STDS else ""


def _distinct(sets: "dict[str, State]") -> "dict[str, State]":
    kept: dict[str, State] = {}
    for path, state in sets.items():
        if not any(_equal(state, other) for other in kept.values()):
            kept[path] = state
    return kept


def _equal(a: "State", b: "State") -> bool:
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _twins(sets: "dict[str, State]") -> "dict[str, State]":
    """Split a set whose names hold one network twice, such as ``model.`` and ``ema_model.``."""
    ((path, state),) = sets.items()
    groups: dict[str, State] = {}
    for name, tensor in state.items():
        start, _, rest = name.partition(".")
        groups.setdefault(start, {})[rest] = tensor
    networks = {start: group for start, group in groups.items() if any(map(_is_weight, group.items()))}
    layouts = {tuple(sorted((n, tuple(t.shape)) for n, t in g.items())) for g in networks.values()}
    if len(networks) < 2 or len(layouts) != 1 or len(next(iter(layouts))) < 4:
        return sets
    networks = _distinct(networks)
    return {f"{path}.{start}".removeprefix("."): group for start, group in networks.items()}


def _named(sets: "dict[str, State]", entry: str, where: str) -> str:
    fitting = [path for path in sets if path == entry] or [p for p in sets if p.endswith(f".{entry}")]
    if len(fitting) != 1:
        held = _several(sets) if any(sets) else "one set of weights, without a name: leave the option out"
        raise BenchError(f"{where} has no --weights-entry {entry!r}; it holds {held}")
    return fitting[0]


def _only(sets: "dict[str, State]", where: str) -> str:
    if len(sets) > 1:
        raise BenchError(
            f"{where} holds {len(sets)} sets of weights, {_several(sets)}: say which with "
            "--weights-entry NAME"
        )
    return next(iter(sets))


def _several(sets: "dict[str, State]") -> str:
    return ", ".join(f"{shown(path) or '(top)'} ({len(state)} tensors)" for path, state in sets.items())


def _unwrapped(tensors: "State") -> "State":
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrapped({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _no_tensors(content: Any, where: str) -> BenchError:
    held = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        held = first_three([str(key) for key in content]) or "nothing"
    return BenchError(f"{where} has no weights in it; it holds {held}: save `model.state_dict()`")


def first_three(names: Iterable[str]) -> str:
    """Return as many names as fit on a line."""
    names = list(names)
    return ", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")


def shown(text: str) -> str:
    """Return text from a file or a library, made safe for a line on a terminal."""
    return printable(" ".join(text.split()), 120)
