"""Gradients in bf16: float32 has the last word on every success, and takes the last steps."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustness_bench.attacks.base import Attack, AttackError, predict
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.registry import attack_presets
from robustness_bench.attacks.searches import pool
from robustness_bench.attacks.searches.pool import Rows, Samples, Search, searched
from robustness_bench.attacks.searches.precision import ByAge, Lowered, lowered_steps
from tests.attacks.parity.problem import problem

LOWERED = [name for name, preset in attack_presets("strict").items() if preset.bf16]
FEWER: dict[str, Any] = {"restarts": 2, "square_queries": 20, "full_steps": 8, "audit": 0.3}
EPS = {"linf": 0.1, "l2": 0.53}


def built(name: str, norm: str, lower: str = "bf16", **changes: Any) -> Attack:
    attack = attack_presets("strict")[name].build(norm, EPS[norm])
    steps = {"steps": 8} if type(attack).__name__ in ("PGD", "AutoAttack") else {}
    fewer = {key: value for key, value in (FEWER | steps).items() if hasattr(attack, key)}
    return dataclasses.replace(attack, **{**fewer, "precision": lower, **changes})


class Seen(nn.Module):
    """A model that keeps what its passes with gradients were computed in, and scales its logits."""

    def __init__(self, model: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.model, self.scale = model, scale
        self.types: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        if x.requires_grad and torch.is_grad_enabled():
            self.types.append(logits.dtype)
        return logits * self.scale


class Flips(nn.Module):
    """In bf16 every image looks fooled; in float32 none is."""

    def forward(self, x: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu")
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([total * 0 + (0.0 if low else 1.0), total * 0 + 0.5 + 1e-3 * total], 1)


@pytest.mark.parametrize(
    ("name", "norm"), [("pgd-40", "linf"), ("pgd-dlr", "l2"), ("aa", "linf"), ("aa-fast", "l2")]
)
def test_float32_confirms_each_success_of_odd_batches_at_any_scale(name: str, norm: str) -> None:
    """Nearly as many fall as under float32's own gradients, and bf16 was used, then float32."""
    model, x, y = problem()
    n = 13
    for scale in (1.0, 1000.0):
        seen = Seen(model, scale)
        outcome = built(name, norm)(seen, x[:n], y[:n])
        assert torch.equal(predict(model, outcome.x_adv), outcome.prediction)
        exact = built(name, norm, "float32")(Seen(model, scale), x[:n], y[:n])
        assert abs(int((outcome.prediction != y[:n]).sum()) - int((exact.prediction != y[:n]).sum())) <= 1
        assert {torch.bfloat16, torch.float32} == set(seen.types)


@pytest.mark.parametrize("name", ["pgd-40", "aa", "aa-fast"])
def test_a_success_that_float32_denies_ends_nothing(name: str) -> None:
    """All of bf16 claims that each image falls; each still gets all its steps, as under float32."""
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    changes: dict[str, Any] = {"targets": 1, "close_targets": 1} if name == "aa-fast" else {}
    outcome = built(name, "linf", **changes)(Flips(), x, y)
    assert torch.equal(outcome.x_adv, x)
    assert torch.equal(outcome.prediction, y)
    exact = built(name, "linf", "float32", **changes)(Flips(), x, y)
    assert outcome.backwards >= exact.backwards
    assert outcome.forwards > exact.forwards  # the claims were looked at


def test_what_stands_takes_its_last_quarter_in_float32() -> None:
    model, x, y = problem()
    seen = Seen(model)
    built("pgd-40", "linf", steps=10, restarts=1, rel_step_size=1e-6)(seen, x[:3], y[:3])
    low = lowered_steps("bf16", 10)
    assert low == 7
    assert seen.types == [torch.bfloat16] * low + [torch.float32] * 3
    assert lowered_steps("bf16", 1) == 0
    assert lowered_steps("float32", 10) == 0


def test_searches_of_all_ages_in_a_batch_get_their_own_precision() -> None:
    model, x, _ = problem()
    age = torch.tensor([9, 0, 4, 12, 1])
    by_age = ByAge(model, 4)
    at = x[:5].clone().requires_grad_()
    logits = by_age(at, age)
    lower, whole = Lowered(model)(at), model(at)
    expected = torch.where((age < 4)[:, None], lower, whole)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(lower, whole, atol=1e-3)
    (gradient,) = torch.autograd.grad(logits.sum(), at)
    (mixed,) = torch.autograd.grad(expected.sum(), at)
    assert torch.allclose(gradient, mixed, atol=1e-5)


def test_only_passes_with_gradients_are_lowered() -> None:
    model, x, _ = problem()
    with torch.no_grad():
        assert torch.equal(Lowered(model)(x), model(x))
    assert Lowered(model)(x[:2].clone().requires_grad_()).dtype == torch.float32


def test_an_unknown_precision_is_refused() -> None:
    for name in LOWERED:
        with pytest.raises(ValueError, match="precision must be one of float32, bf16, got 'half'"):
            built(name, "linf", "half")


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a GPU: a number read from a tensor, or rows chosen by a mask."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        rows = args[1] if name.startswith("index") and isinstance(args[1], list) else []
        masked = any(each is not None and each.dtype == torch.bool for each in rows)
        self.count += masked or name in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["pgd-40", "aa"])
def test_a_device_that_is_seldom_waited_for_gets_the_same_outcomes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight steps between two looks: what fell stays as it fell, in rounding of other batches."""
    model, x, y = problem()
    steps: dict[str, Any] = {"steps": 40, "restarts": 1} if name == "pgd-40" else {}
    attack, waits, found = built(name, "linf", "float32", **steps), [], []
    for unseen in (1, 8):
        monkeypatch.setattr(pool, "_UNSEEN", {"cpu": unseen})
        with Waits() as waited:
            found.append(attack(model, x[:20], y[:20]))
        waits.append(waited.count)
    assert torch.equal(found[0].prediction, found[1].prediction)
    assert torch.allclose(found[0].x_adv, found[1].x_adv, atol=1e-5)
    assert found[1].backwards >= found[0].backwards
    if name == "pgd-40":  # searches keep their ages on the CPU, which is counted here and costs nothing there
        assert waits[0] > 2 * 40 > 2 * waits[1]


@dataclasses.dataclass
class At(Rows):
    sample: Tensor


class Scripted(Search[At]):
    """Sample i is fooled after the steps in ``when[i]`` alone; its image is the number of the step."""

    def __init__(self, when: list[list[int]], steps: int) -> None:
        n = len(when)
        noise = Noise.for_samples(torch.arange(n), 0)
        super().__init__(Samples(torch.zeros(n, 1, 1, 1), torch.zeros(n).long(), noise), [1], steps)
        self.when = when

    def begin(self, sample: Tensor, start: Tensor) -> At:
        return At(sample)

    def step(self, state: At, age: Tensor) -> tuple[At, Tensor, Tensor]:
        pairs = zip(state.sample.tolist(), age.tolist(), strict=True)
        fooled = torch.tensor([step in self.when[sample] for sample, step in pairs])
        return state, age.float().reshape(-1, 1, 1, 1), fooled


@pytest.mark.parametrize("unseen", [1, 3, 8])
def test_a_success_between_two_looks_is_kept(unseen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, or the last one of those that do not leave, though the sample stands at the look."""
    monkeypatch.setattr(pool, "_UNSEEN", {"cpu": unseen})
    when = [[0, 4], [1, 2, 5], [6], [], [3, 4], [5]]
    for leave in (True, False):
        found = searched(Scripted([*when, [7]], 7), room=4, leave=leave)  # ages differ; 7 is a step too late
        chosen = [(each[0] if leave else each[-1]) if each else 0 for each in [*when, []]]
        assert found.images.flatten().tolist() == chosen
        assert found.fooled.tolist() == [bool(each) for each in [*when, []]]


def test_logits_that_are_not_finite_are_noticed_without_a_look_at_each_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_UNSEEN", {"cpu": 8})
    model, x, y = problem()
    passes: list[int] = []

    def broken(module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        passes.append(1)
        return logits * (torch.nan if len(passes) == 5 else 1.0)

    handle = model.register_forward_hook(broken)
    with pytest.raises(AttackError, match="logits are not finite"):
        built("pgd-40", "linf", "float32")(model, x[:4], y[:4])
    handle.remove()
    assert len(passes) > 5
