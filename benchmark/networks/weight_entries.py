"""Which tensors of a file are the weights: one state dict, named where there are several."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from robustness_bench.benchmark.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

_WRAPPERS = ("module.", "_orig_mod.")
_NO_WEIGHTS = ("optim", "sched", "scaler")  # in a key: its tensors are of the training
_MEANS, _STDS = ("mean", "mu", "_mean"), ("std", "sigma", "_std")


def chosen(content: Any, entry: str, where: str) -> "State":
    """The one set of weights in what a file holds, or the one that is called ``entry``.

    Raises:
        BenchError: there is none, several, or none of that name.
    """
    sets, beside = _networks(dict(_sets(content, "")))
    if not sets:
        raise _no_tensors(content, where)
    sets = _twins(sets) if len(sets) == 1 else sets
    name = _named(sets, entry, where) if entry else _only(sets, where)
    return beside | _unwrapped(sets[name])


def _sets(content: Any, path: str) -> "Iterator[tuple[str, State]]":
    """Every mapping with tensors in it, by its dotted path."""
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
    """Of several sets those with a matrix in them, equal ones once; and a normalisation beside them."""
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
    """ "mean" or "std" if a buffer is called like one of a normalisation of pixels; else nothing."""
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
    """One set as several, where its names are those of one network twice: ``model.`` and ``ema_model.``."""
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
    """Of a list of names what a line can hold."""
    names = list(names)
    return ", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")


def shown(text: str) -> str:
    """Text out of a file or a library, fit for a line on a terminal."""
    text = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    return text[:120] + "…" if len(text) > 120 else text
