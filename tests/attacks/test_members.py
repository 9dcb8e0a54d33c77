"""APGD and FAB against the library's on the same random numbers, sample by sample."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.autoattack import AutoAttack, ranked
from robustness_bench.attacks.numerics import geometry
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import dlr, log_odds, targeted_dlr
from robustness_bench.attacks.numerics.noise import Noise, NoiseOfSamples
from robustness_bench.attacks.searches.apgd import APGD, Climb, periods
from robustness_bench.attacks.searches.fab import FAB, Approach, onto_plane
from robustness_bench.attacks.searches.pool import Found, Samples, Search, searched
from tests.attacks.parity.problem import problem

LIBRARY_NORM = {"linf": "Linf", "l2": "L2"}
SAMPLES = 40
STEPS = 40
STREAM = 17
EPS = {"convolutional": {"linf": 0.1, "l2": 0.53}, "connected": {"linf": 0.05, "l2": 0.3}}
both_norms = pytest.mark.parametrize("norm", ["linf", "l2"])
both_models = pytest.mark.parametrize("kind", ["convolutional", "connected"])


class Known:
    """A model, images that it classifies correctly, and noise."""

    def __init__(self, kind: str, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.kind = kind
        self.model, x, y = problem()
        if kind == "connected":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                layers = [nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)]
                self.model = nn.Sequential(*layers).eval().requires_grad_(False)
            y = self.model(x).argmax(1)
        self.model, x = self.model.to(dtype), x.to(dtype)
        noise = Noise.for_samples(torch.arange(SAMPLES), seed, "parity")
        self.samples = Samples(x[:SAMPLES], y[:SAMPLES], noise)
        self.targets = ranked(self.model(self.samples.x))

    def target(self, rank: int) -> Tensor:
        return self.targets[:, rank - 2 : rank - 1]


def apgd(on: Known, norm: Norm, eps: float, loss: str, rank: int = 0, steps: int = STEPS) -> APGD:
    targets = on.target(rank) if rank else None
    untargeted = {"log-odds": log_odds, "dlr": dlr}.get(loss)
    climbed = targeted_dlr if untargeted is None else lambda logits, y, _: untargeted(logits, y)
    return APGD(
        on.model, on.samples, [STREAM], norm=norm, eps=eps, loss=climbed, targets=targets, steps=steps
    )


def library_apgd(
    on: Known, norm: Norm, eps: float, loss: str, rank: int = 0, steps: int = STEPS
) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples stand, the highest loss of each, and the images."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    settings: dict[str, Any] = {"n_iter": steps, "norm": LIBRARY_NORM[norm], "eps": eps, "device": "cpu"}
    if rank:
        member = APGDAttack_targeted(on.model, **settings)
        member.y_target = on.target(rank)[:, 0]
    else:
        member = APGDAttack(on.model, loss="dlr", **settings)
        if loss == "log-odds":
            member.dlr_loss = log_odds
    member.init_hyperparam(on.samples.x)
    with NoiseOfSamples(on.samples.noise.stream(STREAM)):
        _, stands, highest, images = member.attack_single_run(on.samples.x, on.samples.y)
    return stands.bool(), highest.detach(), images.detach()


def to_the_end(search: Search[Any]) -> tuple[Found, Any]:
    """What is found where nobody leaves, and the state after the last step, a row per start and sample."""
    states = []
    step = search.step

    def kept(state: Any, age: Tensor) -> tuple[Any, Tensor, Tensor]:
        made = step(state, age)
        states.append(made[0])
        return made

    search.step = kept  # type: ignore[method-assign]
    return searched(search, room=search.starts * SAMPLES, leave=False), states[-1]


# The library warns of a sample that has come to rest, which is the same in both.
@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")
@pytest.mark.parametrize(
    ("loss", "rank"), [("log-odds", 0), ("dlr", 0), ("dlr-targeted", 2), ("dlr-targeted", 4)]
)
@both_norms
@pytest.mark.parametrize(("kind", "seed"), [("convolutional", 0), ("connected", 1)])
def test_apgd_is_the_library_s(kind: str, norm: Norm, loss: str, rank: int, seed: int) -> None:
    """The same samples fall, to the same image, and the others' loss rises as high.

    In L∞ to the bit. In L2 the projections round otherwise, and forty steps make much of it in float32.
    """
    dtype = torch.float32 if norm == "linf" else torch.float64
    on, eps = Known(kind, seed, dtype), EPS[kind][norm]
    stands, highest, images = library_apgd(on, norm, eps, loss, rank)
    found, state = to_the_end(apgd(on, norm, eps, loss, rank))
    assert isinstance(state, Climb)
    assert torch.equal(found.fooled, ~stands)
    assert 0 < int(stands.sum()) < SAMPLES
    assert found.images.dtype == images.dtype == dtype
    # Once the true class is third, the DLR is 1 all around, and rounding alone leads the way.
    if norm == "linf" or loss != "dlr":
        assert torch.allclose(found.images[~stands], images[~stands], atol=0.0 if norm == "linf" else 1e-3)
    assert torch.allclose(state.best_loss[stands], highest[stands], rtol=0.0 if norm == "linf" else 1e-5)


def library_fab(on: Known, norm: Norm, rank: int, start: int) -> Tensor:
    from pyautoattack.fab_pt import FABAttack_PT

    member = FABAttack_PT(
        on.model, n_iter=STEPS, norm=LIBRARY_NORM[norm], eps=EPS[on.kind][norm], device="cpu"
    )
    member.target_class = rank
    with NoiseOfSamples(on.samples.noise.stream(STREAM)):
        found: Tensor = member.attack_single_run(
            on.samples.x, on.samples.y, use_rand_start=start > 0, is_targeted=rank > 0
        )
    return found.detach()


@pytest.mark.parametrize(("rank", "start"), [(0, 0), (0, 1), (2, 0), (4, 0)])
@both_norms
@both_models
def test_fab_is_the_library_s(kind: str, norm: Norm, rank: int, start: int) -> None:
    """As near to every image, and the same ones within ε."""
    on, eps = Known(kind, 0), EPS[kind][norm]
    theirs = geometry.size(library_fab(on, norm, rank, start) - on.samples.x, norm)
    fab = FAB(
        on.model,
        on.samples,
        [STREAM] * (start + 1),
        norm=norm,
        eps=eps,
        limit=0.0,  # so that no start yields to another
        steps=STEPS,
        targets=on.target(rank) if rank else None,
    )
    found, state = to_the_end(fab)
    assert isinstance(state, Approach)
    assert not found.fooled.any()
    ours = state.nearest[-SAMPLES:]
    # The library's FAB runs in float32 only, and the processor decides how far forty steps carry rounding.
    assert torch.allclose(ours, theirs, rtol=0.03)
    assert torch.isclose(ours, theirs, rtol=1e-4).float().mean() >= 0.9
    assert torch.equal(ours <= eps, theirs <= eps)
    assert 0 < int((ours <= eps).sum()) < SAMPLES
    if start:
        assert not torch.allclose(ours, state.nearest[:SAMPLES], rtol=0.005)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("member", ["apgd-t", "fab-t", "apgd-ce"])
def test_the_size_of_the_batch_decides_nothing(member: str, norm: Norm) -> None:
    """One member from all its starts, in batches that fit and do not, to the end or to the first success."""
    on = Known("convolutional", 0)
    attack = AutoAttack(norm=norm, eps=EPS["convolutional"][norm], steps=20)
    found = {}
    for room, n in ((1, 2), (7, 12), (64, SAMPLES), (1000, SAMPLES)):
        samples = on.samples.pick(torch.arange(n))
        found[room] = attack._run(member, on.model, samples, on.targets[:n], room)
    to_its_end = attack.for_transfer()
    assert isinstance(to_its_end, AutoAttack)
    last = to_its_end._run(member, on.model, on.samples, on.targets, 64)
    assert 0 < int(last.fooled.sum()) < SAMPLES
    for each in found.values():
        n = len(each.fooled)
        assert torch.equal(each.fooled, last.fooled[:n])
        assert torch.allclose(each.images, found[64].images[:n], atol=1e-3)
    assert not torch.allclose(last.images, found[64].images, atol=1e-3)


def test_a_sample_costs_nothing_after_its_fall() -> None:
    """No pass is spent on a start of a sample that has fallen at an earlier one."""
    on = Known("convolutional", 0)
    x = on.samples.x
    attack = AutoAttack(norm="linf", eps=EPS["convolutional"]["linf"], steps=30)
    fell, passes = torch.zeros(SAMPLES, dtype=torch.bool), 0

    def look(module: nn.Module, args: tuple[Tensor], logits: Tensor) -> None:
        nonlocal passes
        passes += len(args[0])
        sample = (args[0][:, None] - x[None]).flatten(2).norm(dim=2).argmin(1)
        assert not fell[sample].any()
        fell[sample[logits.argmax(1) != on.samples.y[sample]]] = True

    handle = on.model.register_forward_hook(look)
    found = attack._run("apgd-ce", on.model, on.samples, on.targets, SAMPLES)
    handle.remove()
    assert torch.equal(found.fooled, fell)
    assert passes < 31 * SAMPLES


@both_norms
def test_the_projection_is_the_nearest_point_of_plane_and_box(norm: Norm) -> None:
    """Against the library's; where the box does not reach the plane, its corner nearest to it."""
    from pyautoattack.fab_projections import projection_l2, projection_linf

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 30, generator=generator)
    x[x < 0.2], x[x > 0.9] = 0.0, 1.0
    w = torch.randn(200, 30, generator=generator)
    w[:, ::7] = 0.0
    excess = torch.randn(200, generator=generator) * w.abs().sum(1) * 0.3
    move = onto_plane(x, w, excess, norm)
    theirs = {"linf": projection_linf, "l2": projection_l2}[norm](x, w, (w * x).sum(1) - excess)
    assert torch.allclose(move, theirs, atol=1e-5)
    assert (x + move).min() >= 0
    assert (x + move).max() <= 1
    reached = ((w * move).sum(1) + excess).abs() < 1e-4
    assert 0.5 < reached.float().mean() < 1
    corner = torch.where(w * excess[:, None].sign() > 0, 0.0, 1.0)
    corner = torch.where(w == 0, x, corner)
    assert torch.allclose((x + move)[~reached], corner[~reached], atol=1e-5)


def test_periods_are_the_paper_s() -> None:
    """Of 100 steps: 22, then 3 fewer each time, 6 at least."""
    ends = periods(100).nonzero()[:, 0].tolist()
    assert ends == [22, 41, 57, 70, 80, 87, 93, 99]
    assert periods(100)[ends].tolist() == [22, 19, 16, 13, 10, 7, 6, 6]
    assert periods(1).tolist() == [0, 1]


@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_no_member_is_dead(member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them finds falls, if the others find nothing."""
    model, x, y = problem()
    x, y = x[:10], y[:10]
    run = AutoAttack._run

    def alone(
        self: AutoAttack, name: str, model: nn.Module, samples: Samples, *rest: Any, **more: Any
    ) -> Found:
        if name == member:
            return run(self, name, model, samples, *rest, **more)
        return Found(samples.x, torch.zeros_like(samples.y, dtype=torch.bool))

    monkeypatch.setattr(AutoAttack, "_run", alone)
    outcome = AutoAttack(norm="linf", eps=0.2, steps=10, square_queries=300)(model, x, y)
    assert (outcome.prediction != y).sum() >= 5
