"""AutoAttack's cheap members: what they leave to the whole of it, and what the audit says of the rest."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks import fast as fast_module
from robustness_bench.attacks.autoattack import AutoAttack
from robustness_bench.attacks.fast import ALONE, AUDITED, ESCALATED, FastAutoAttack, audited, linear_distances
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.searches.pool import Samples
from tests.attacks.parity.problem import Problem, problem
from tests.masked import MASKED, Drawing, Rounded
from tests.support import Linear, images

EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.53}
SAMPLES = 40
both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])


@pytest.fixture(scope="module")
def digits() -> Problem:
    model, x, y = problem()
    return Problem(model, x[:SAMPLES], y[:SAMPLES])


def fast(norm: Norm, audit: float = 0.0) -> FastAutoAttack:
    return FastAutoAttack(norm=norm, eps=EPS[norm], audit=audit, full_steps=6, square_queries=80)


def weaker(norm: Norm, audit: float) -> FastAutoAttack:
    """One step from anywhere, in a ball so large that AutoAttack breaks many more."""
    few: dict[str, Any] = {"targets": 1, "steps": 1, "close_targets": 1, "close_steps": 1}
    return dataclasses.replace(fast(norm, audit), eps=1.3 * EPS[norm], **few)


def full(norm: Norm) -> AutoAttack:
    return AutoAttack(norm=norm, eps=EPS[norm], steps=6, square_queries=80)


@both_norms
@pytest.mark.parametrize("name", MASKED)
def test_a_masked_model_goes_through_autoattack(name: str, norm: Norm, digits: Problem) -> None:
    """Nothing stands that AutoAttack breaks; of the one that draws, two runs differ by chance."""
    x, y = digits.x, digits.y
    ours = fast(norm)(MASKED[name](digits.model), x, y)
    theirs = full(norm)(MASKED[name](digits.model), x, y)
    stands, would_stand = ours.prediction == y, theirs.prediction == y
    assert (~would_stand).any()
    if name == "drawing":
        assert int(stands.sum()) <= int(would_stand.sum()) + 3
        assert ours.backwards == pytest.approx(theirs.backwards, rel=0.1)  # nothing is left to chance
    else:
        assert not (stands & ~would_stand).any()


@both_norms
def test_an_honest_model_is_left_to_the_cheap_members(
    norm: Norm, digits: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = full(norm)(*digits)

    def fail(*arguments: object) -> Tensor:
        raise AssertionError("AutoAttack was asked")

    monkeypatch.setattr(AutoAttack, "perturb", fail)
    ours = fast(norm)(*digits)
    stands, would_stand = ours.prediction == digits.y, theirs.prediction == digits.y
    assert 0 < int(would_stand.sum()) < SAMPLES
    assert not (stands & ~would_stand).any()
    forwards, backwards = fast(norm).passes(10)
    assert ours.forwards <= forwards + 3
    assert ours.backwards <= backwards


@both_norms
def test_the_audited_go_through_autoattack(norm: Norm, digits: Problem) -> None:
    """All of them in the audit: whatever the cheap members left has AutoAttack's own outcome."""
    weak = weaker(norm, 1.0)
    whole, cheap = dataclasses.replace(full(norm), eps=weak.eps), dataclasses.replace(weak, audit=0.0)
    ours, theirs = weak(*digits, seed=5), whole(*digits, seed=5)
    left = cheap(*digits, seed=5).prediction == digits.y
    assert torch.equal(ours.prediction[left], theirs.prediction[left])
    assert (left & (theirs.prediction != digits.y)).any()
    assert torch.allclose(ours.x_adv[left], theirs.x_adv[left], atol=1e-3)


def test_the_audit_is_the_one_that_is_announced(digits: Problem) -> None:
    """``audited`` says which samples an attack audits."""
    weak = weaker("linf", 0.5)
    none, whole = dataclasses.replace(weak, audit=0.0), dataclasses.replace(full("linf"), eps=weak.eps)
    ids, y = 1000 + torch.arange(SAMPLES), digits.y
    left = none(*digits, ids=ids, seed=3).prediction == y
    more = (weak(*digits, ids=ids, seed=3).prediction != y) & left
    drawn = audited(ids, 0.5, 3)
    would = whole(*digits, ids=ids, seed=3).prediction != y
    assert torch.equal(more, left & drawn & would)
    assert more.any()
    assert (left & ~drawn & would).any()


def _nothing_marked(self: object, model: object, samples: Samples, *rest: object) -> tuple[Tensor, Tensor]:
    return samples.y < 0, samples.y < 0


class Hill(nn.Module):
    """Its margin is -0.9 at best, but for moves of nearly ``eps`` along one pattern of signs: -0.1.

    Args:
        way: whether there are "peaks" on the way there, each as high, or a smooth "slope", or a "broken" one,
            whose gradient is no number at the top.
    """

    def __init__(self, eps: float, way: str) -> None:
        super().__init__()
        self.eps, self.way = eps, way
        self.pattern = torch.randn((1, 6, 6), generator=torch.Generator().manual_seed(0)).sign()

    def forward(self, x: Tensor) -> Tensor:
        moved = ((x - 0.5) * self.pattern).flatten(1).mean(1) / self.eps
        wave = (5 * (moved - 0.3)) % 2
        high = (
            -0.5 + 0.4 * torch.minimum(wave, 2 - wave)
            if self.way == "peaks"
            else 0.1 * moved - 1 + 0.8 * moved**4
        )
        value = torch.where(moved < 0.3, 0.1 * moved - 1, high)
        if self.way == "broken":
            high = moved > 0.9
            root = (
                torch.where(high, value - value.detach(), 1.0).square().sqrt()
            )  # of 0 its derivative is NaN
            value = value + torch.where(high, root, 0.0)
        return torch.stack([torch.zeros_like(value), value], 1)


@pytest.mark.parametrize(("way", "longer"), [("peaks", [40, 80]), ("slope", []), ("broken", [40, 80])])
def test_a_climb_that_does_not_come_to_rest_is_not_trusted(
    way: str, longer: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between peaks the gradient promises the class wherever the climb ends; atop a slope nothing."""
    asked: list[int] = []

    class Listed(fast_module.Ascent):
        def __init__(self, *rest: Any, steps: int, **more: Any) -> None:
            asked.append(steps)
            super().__init__(*rest, steps=steps, **more)

    monkeypatch.setattr(fast_module, "Ascent", Listed)
    monkeypatch.setattr(AutoAttack, "perturb", lambda self, model, x, y, noise: x)
    x, y = torch.full((5, 1, 6, 6), 0.5), torch.zeros(5, dtype=torch.int64)
    attack = FastAutoAttack(norm="linf", eps=0.1, audit=0.0, targets=1, close_targets=1)
    told = attack(Hill(0.1, way), x, y).way
    assert told is not None
    assert (told == (ESCALATED if longer else ALONE)).all()
    assert asked == [10, 12, *longer]


@both_norms
def test_linear_distances_are_those_of_a_linear_model(norm: Norm) -> None:
    """(z_y - z_k) / ‖w_y - w_k‖ in the dual norm; the true class's is infinite."""
    model, x = Linear(), images(7, size=6)
    logits = model(x).detach()
    y, classes = logits.argmax(1), logits.shape[1]
    found = linear_distances(model, x, y, logits, norm)
    normals = (model.weight[y][:, None] - model.weight[None]).flatten(2).detach()
    lengths = torch.linalg.vector_norm(normals, ord=1 if norm == "linf" else 2, dim=2)
    expected = ((logits.gather(1, y[:, None]) - logits) / lengths).scatter(1, y[:, None], torch.inf)
    assert torch.allclose(found, expected, rtol=1e-4)
    assert torch.isfinite(found).sum() == 7 * (classes - 1)
    assert torch.equal(found.min(1).values.isclose(model.boundary(x, norm), rtol=1e-4), torch.ones(7).bool())


def test_the_third_ascent_goes_for_the_class_that_is_nearest_by_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No class is tried twice; the first ascent names none."""
    model, x = Linear(classes=6), images(5, size=6)
    logits = model(x).detach()
    y = logits.argmax(1)
    asked: list[Tensor | None] = []

    class Listed(fast_module.Ascent):
        def __init__(self, model: Any, samples: Any, stream: int, target: Tensor | None, **more: Any) -> None:
            asked.append(target)
            super().__init__(model, samples, stream, target, **more)

    monkeypatch.setattr(fast_module, "Ascent", Listed)
    monkeypatch.setattr(FastAutoAttack, "_marked", _nothing_marked)
    FastAutoAttack(norm="linf", eps=1e-4, targets=4, steps=2, audit=0.0)(model, x, y)
    first, second, third, fourth, *close = asked
    assert first is None
    assert not close
    assert second is not None
    assert third is not None
    assert fourth is not None
    # So near to the image the margin's order is that of the logits, the first ascent's class the runner-up.
    order = logits.argsort(1, descending=True)
    assert torch.equal(second, order[:, 2])
    tried = torch.stack([y, order[:, 1], second], 1)
    left = linear_distances(model, x, y, logits, "linf").scatter(1, tried, torch.inf)
    assert torch.equal(torch.stack([third, fourth], 1), left.argsort(1)[:, :2])
    assert (third != order[:, 3]).any()


def test_what_comes_close_gets_longer_ascents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each twice as long as the one before, on at most half as much of the margin."""
    asked: list[tuple[int, int]] = []

    class Listed(fast_module.Ascent):
        def __init__(self, model: Any, samples: Any, *rest: Any, steps: int, **more: Any) -> None:
            asked.append((len(samples.y), steps))
            super().__init__(model, samples, *rest, steps=steps, **more)

    monkeypatch.setattr(fast_module, "Ascent", Listed)
    monkeypatch.setattr(FastAutoAttack, "_marked", _nothing_marked)
    model, x = Linear(), images(1, size=6).expand(40, -1, -1, -1).contiguous()
    y = model(x).argmax(1)
    normals = (model.weight - model.weight[y[:1]]).detach().view(-1, 1, 6, 6)
    gap = margin(model(x[:1]), y[:1]).item()

    def left(eps: float) -> float:
        """The share of the margin that is left at the worst corner of the ball, inside the box."""
        corners = (x[:1] + eps * normals.sign()).clamp(0.0, 1.0)
        return max(margin(model(corner[None]), y[:1]).item() for corner in corners) / gap

    for share, longer in ((0.3, []), (0.15, [12]), (0.08, [12, 24]), (0.04, [12, 24, 48])):
        eps = next(eps for eps in (1e-4 * k for k in range(1, 10_000)) if left(eps) < share)
        asked.clear()
        FastAutoAttack(norm="linf", eps=eps, targets=2, audit=0.0)(model, x, y)
        assert asked == [(40, 10), (40, 10), *((40, steps) for steps in longer)], share


def test_the_way_tells_who_was_audited_and_who_escalated(digits: Problem) -> None:
    """A sample that falls to the cheap members, or is misclassified anyway, is neither."""
    weak, y = weaker("linf", 0.5), digits.y.clone()
    y[:2] = (y[:2] + 1) % 10
    ids = 1000 + torch.arange(SAMPLES)
    found = weak(digits.model, digits.x, y, ids=ids, seed=3)
    left = dataclasses.replace(weak, audit=0.0)(digits.model, digits.x, y, ids=ids, seed=3).prediction == y
    assert found.way is not None
    assert torch.equal(found.way == AUDITED, left & audited(ids, 0.5, 3))
    assert (found.way == ALONE).sum() == SAMPLES - (found.way == AUDITED).sum()
    masked = fast("linf", 0.5)(Rounded(digits.model), *digits[1:])
    assert masked.way is not None
    assert (masked.way == ESCALATED).sum() >= (masked.prediction == digits.y).sum() > 0
    assert not (masked.way == AUDITED).any()  # what is marked says nothing of the others
    nobody = weak(digits.model, digits.x, (digits.y + 1) % 10)
    assert nobody.way is not None
    assert not nobody.way.any()
    drawing = fast("linf")(Drawing(digits.model), *digits[1:])
    assert drawing.way is not None
    assert ((drawing.way == ESCALATED) | (drawing.clean_prediction != digits.y)).all()


def test_the_audit_is_of_the_sample_and_of_its_share() -> None:
    ids = torch.arange(20_000)
    drawn = audited(ids, 0.05, 0)
    assert drawn.float().mean().item() == pytest.approx(0.05, abs=0.006)
    assert torch.equal(audited(ids[7::3], 0.05, 0), drawn[7::3])
    assert not torch.equal(audited(ids, 0.05, 1), drawn)
    assert (audited(ids, 0.1, 0) | ~drawn).all()  # a larger share has all of a smaller one
    assert not audited(ids, 0.0, 0).any()
    assert audited(ids, 1.0, 0).all()


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="audit must be a share between 0 and 1, got 2"):
        FastAutoAttack(norm="linf", eps=0.1, audit=2.0)
    with pytest.raises(ValueError, match="at least 1"):
        FastAutoAttack(norm="linf", eps=0.1, steps=0)
