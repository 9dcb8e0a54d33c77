"""A submitted attack in a process of its own: the honest one is the same function, the others do no harm."""

import dataclasses
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustness_bench.attacks.base import AttackError, BudgetAttack, Counted, Outcome
from robustness_bench.attacks.numerics.noise import Noise
from robustness_bench.attacks.registry import build_attack
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.sandbox.attack_process import LIMITS, AttackProcess
from robustness_bench.benchmark.sandbox.confinement import Allowance, ConfinementError, Limits, Platform
from robustness_bench.benchmark.sandbox.failures import ModelError, SubmittedAttackError
from robustness_bench.benchmark.sandbox.remote import RemoteModel
from robustness_bench.benchmark.sandbox.remote_attack import Code, SubmittedAttack, at_hand, seed_of
from robustness_bench.benchmark.sandbox.serving import Desk
from robustness_bench.benchmark.sandbox.untrusted import raw
from robustness_bench.benchmark.sandbox.walls import bubblewrap
from robustness_bench.benchmark.sandbox.wire import Frame, WireError
from robustness_bench.benchmark.submit.intake.template import write_template
from tests.benchmark.sandbox.forked import forking
from tests.benchmark.sandbox.hostile import escaping, needs_walls, targets, tree_hash
from tests.benchmark.sandbox.hostile_attacks.failing import ALLOWED, BODY, CALLED, HEAD, STARTING
from tests.conftest import ROOT
from tests.support import Small, images

pytestmark = needs_walls

PASSES = Allowance(21, 20)
EPS = {"linf": 0.05, "l2": 0.5}
TOLD = {"name": "My PGD", "authors": ["Ada"], "link": "https://example.org", "sha256": "5" * 64}


@dataclass(frozen=True, kw_only=True)
class Here(BudgetAttack):
    """The same function in this process."""

    function: Callable[..., Tensor]

    def passes(self, classes: int) -> tuple[int, int]:
        return PASSES

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return self.function(model, x, y, norm=self.norm, eps=self.eps, seed=seed_of(noise))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "mine"
    write_template(folder, attack=True)
    return folder / "attack.py"


def function_of(path: Path) -> Callable[..., Tensor]:
    found: dict[str, Any] = {}
    exec(compile(path.read_text(), path.name, "exec"), found)
    function: Callable[..., Tensor] = found["perturb"]
    return function


def written(folder: Path, source: str) -> Path:
    path = folder / "attack.py"
    path.write_text(source)
    return path


def confined(
    path: Path, model: nn.Module, norm: str = "linf", limits: Limits = LIMITS, n: int = 12
) -> Outcome:
    """What the attack at ``path`` comes to, as every attack is run."""
    x = images(n)
    sha256 = f"{abs(hash(path)):064x}"
    attack = build_attack(
        {
            "attack": "benchmark.submission.remote_attack:SubmittedAttack",
            "norm": norm,
            "eps": EPS[norm],
            **TOLD,
            "sha256": sha256,
        }
    )
    with at_hand(sha256, Code(path, PASSES, limits)):
        return attack(model, x, model(x).argmax(1), seed=3)


# The honest one


def test_the_template_finds_the_same_images_as_in_this_process(model: nn.Module, template: Path) -> None:
    """In L2; in L∞ below."""
    x = images(40)
    y = model(x).argmax(1)
    here = Here(norm="l2", eps=EPS["l2"], function=function_of(template))
    noise = Noise.for_samples(torch.arange(40), 0, "anything")
    with AttackProcess.start(template) as process:
        there = process.perturb(
            model,
            x,
            y,
            norm="l2",
            eps=EPS["l2"],
            seed=seed_of(noise),
            allowance=PASSES,
        )
    assert torch.equal(there, here.perturb(model, x, y, noise))
    assert (model(there).argmax(1) != y).any()
    assert not torch.equal(there, x)


def test_it_is_judged_and_counted_as_every_attack(model: nn.Module, template: Path) -> None:
    there = confined(template, model, n=40)
    x = images(40)
    y = model(x).argmax(1)
    seen: list[int] = []
    function = function_of(template)

    def noted(*arguments: Any, **settings: Any) -> Tensor:
        seen.append(settings["seed"])
        return function(*arguments, **settings)

    named = type("SubmittedAttack", (Here,), {})  # the noise of a sample is keyed by the attack's name
    here = named(norm="linf", eps=EPS["linf"], function=noted)(model, x, y, seed=3)
    assert torch.equal(there.x_adv, here.x_adv)
    assert torch.equal(there.prediction, here.prediction)
    assert (there.forwards, there.backwards) == (here.forwards, here.backwards)
    assert there.backwards == 20.0
    assert (there.prediction != y).any()
    assert 0 <= seen[0] < 2**31


def test_another_seed_and_other_samples_have_other_noise() -> None:
    ids = torch.arange(4)
    first, again = (seed_of(Noise.for_samples(ids, 0, "x")) for _ in range(2))
    assert first == again
    assert first != seed_of(Noise.for_samples(ids, 1, "x"))
    assert first != seed_of(Noise.for_samples(ids + 4, 0, "x"))


def test_it_can_attack_a_model_that_is_confined_too(template: Path) -> None:
    honest = ROOT / "tests" / "benchmark" / "sandbox" / "hostile_models" / "honest.py"
    shape = {"classes": 5, "channels": 1, "size": 8}
    with RemoteModel.start(honest, None, **shape, limits=Limits()) as remote:  # type: ignore[arg-type]
        there, x = confined(template, remote), images(12)
        named = type("SubmittedAttack", (Here,), {})
        here = named(norm="linf", eps=EPS["linf"], function=function_of(template))
        assert torch.equal(there.x_adv, here(remote, x, remote(x).argmax(1), seed=3).x_adv)
    assert there.backwards > 0


def test_its_identity_is_its_code_and_whose_it_is() -> None:
    attack = SubmittedAttack(norm="linf", eps=0.1, **TOLD)  # type: ignore[arg-type]
    assert dataclasses.asdict(attack) == {"norm": "linf", "eps": 0.1, **TOLD}
    assert repr(attack) == "SubmittedAttack(norm='linf', eps=0.1, name='My PGD')"
    with pytest.raises(BenchError, match="'My PGD' is not at hand: bench submit run"):
        attack.passes(10)
    with at_hand("5" * 64, Code(Path("attack.py"), PASSES)):
        assert attack.passes(10) == (21, 20)
    with pytest.raises(BenchError, match="is not at hand"):
        attack.perturb(Small(), images(1), torch.zeros(1), Noise.for_samples(torch.arange(1), 0))


def test_what_does_no_harm_is_let(
    model: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = "\n    ".join([*ALLOWED.values(), "x = (x + 0.5 * eps).clamp(0, 1)"])
    outcome = confined(written(tmp_path, HEAD + BODY.format(body=body)), model)
    assert torch.isfinite(outcome.x_adv).all()
    assert capfd.readouterr() == ("", "")


# Those that are not


def _ended(name: str, folder: Path, model: nn.Module) -> Exception:
    case = {**STARTING, **CALLED}[name]
    limits = replace(LIMITS, **case.limits)
    with pytest.raises((SubmittedAttackError, AttackError)) as failure:
        confined(written(folder, case.source), model, limits=limits)
    return failure.value


@pytest.fixture(scope="module")
def earlier() -> set[int]:
    """Children of this process that other tests have left."""
    return _children()


@pytest.fixture(scope="module")
def endings(
    earlier: set[int], model: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exception]:
    """All of them; those that need a fresh Python two at a time, as most of it is waiting for torch."""
    cases = {**STARTING, **CALLED}
    folders = {name: tmp_path_factory.mktemp("failing") for name in cases}
    found = {}
    with forking():
        for name in [name for name in cases if not cases[name].fresh]:
            found[name] = _ended(name, folders[name], model)
    fresh = [name for name in cases if cases[name].fresh]
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda name: _ended(name, folders[name], model), fresh)
        return found | dict(zip(fresh, ended, strict=True))


@pytest.mark.parametrize("name", [*STARTING, *CALLED])
def test_it_ends_with_its_own_reason(endings: dict[str, Exception], name: str) -> None:
    error, wanted = endings[name], {**STARTING, **CALLED}[name]
    assert re.search(wanted.says, str(error)), str(error)
    if not wanted.stage:
        assert isinstance(error, AttackError)
        return
    assert isinstance(error, SubmittedAttackError)
    assert isinstance(error, ModelError)
    assert error.stage == wanted.stage, str(error)
    assert re.fullmatch(rf"the submitted attack failed \({wanted.stage}\): .+; .+", str(error))
    assert str(error).isprintable()
    assert len(str(error)) < 500


def test_nothing_of_them_is_left(earlier: set[int], endings: dict[str, Exception]) -> None:
    assert not _children() - earlier


def _children() -> set[int]:
    pid = os.getpid()
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_no_escape_from_an_attack(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_TEST_SECRET", "secret")
    # The floor alone: inside bubblewrap nothing but the scratch folder has even a name.
    monkeypatch.setattr(bubblewrap, "problem", lambda: "left out")
    told = "\ndef perturb(model, x, y, **_):\n    raise RuntimeError(json.dumps(tried()))\n"
    with targets(tmp_path) as aim:
        code = written(tmp_path / "submission", escaping(aim) + told)
        before = [tree_hash(tmp_path / name) for name in ("store", "submission")]
        with pytest.raises(SubmittedAttackError, match=r'RuntimeError: \{"succeeded": \[\], "odd": \[\]\}'):
            confined(code, model)
        assert [tree_hash(tmp_path / name) for name in ("store", "submission")] == before


_OPENS = """
    for path in {paths}:
        for mode in ("r", "w"):
            try:
                open(path, mode)
            except (PermissionError, FileNotFoundError):
                pass
            else:
                raise RuntimeError("opened " + path + " with " + mode)
    raise RuntimeError("opened none")"""


def test_it_can_reach_no_file_of_ours(model: nn.Module, tmp_path: Path) -> None:
    ours = tmp_path / "store"
    ours.mkdir()
    (ours / "weights.safetensors").write_text("as it was")
    paths = [str(path) for path in (ours / "weights.safetensors", ROOT / "README.md", ours / "new")]
    with pytest.raises(SubmittedAttackError, match="RuntimeError: opened none") as failure:
        confined(written(tmp_path, HEAD + BODY.format(body=_OPENS.format(paths=paths))), model)
    assert failure.value.stage == "perturb"
    assert [path.read_text() for path in ours.iterdir()] == ["as it was"]


def test_a_process_that_failed_answers_nothing_more(model: nn.Module, tmp_path: Path) -> None:
    code = written(tmp_path, HEAD + BODY.format(body="raise ValueError('once')"))
    x = images(2)
    with forking(), AttackProcess.start(code) as process:
        for _ in range(2):
            with pytest.raises(SubmittedAttackError, match="ValueError: once"):
                process.perturb(
                    model, x, x[:, 0, 0, 0].long(), norm="linf", eps=0.1, seed=0, allowance=PASSES
                )


def test_a_model_that_fails_ends_the_attack(template: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("our own fault")

    x = images(2)
    with forking(), AttackProcess.start(template) as process:
        with pytest.raises(RuntimeError, match="our own fault"):
            process.perturb(
                Broken(), x, torch.zeros(2, dtype=torch.int64), norm="linf", eps=0.1, seed=0, allowance=PASSES
            )
        pid = process._process.pid
        assert not Path(f"/proc/{pid}").exists()


def test_the_time_of_the_model_is_not_the_attacks(model: nn.Module, template: Path) -> None:
    import time

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.2)
            logits: Tensor = model(x)
            return logits

    outcome = confined(template, Slow(), limits=Limits(seconds_per_call=2.0))
    assert outcome.backwards > 10  # more than two seconds of passes


def ask(desk: Desk, kind: str, token: int, tensor: Tensor, *release: int) -> Tensor:
    """What a desk answers, as numbers."""
    header = {"kind": kind, "token": token, "release": list(release), "gradient": True}
    _, answer = desk.answer(Frame(header, bytearray(raw(tensor))))
    return torch.frombuffer(bytearray(answer), dtype=torch.float32)


def test_graphs_are_kept_for_so_many_images_and_until_they_are_let_go(model: nn.Module) -> None:
    desk = Desk(model, images(2), Allowance(10**6, 10**6))
    assert desk.most == 1024
    x, seed = images(1).expand(1024, -1, -1, -1), torch.ones(1024, 5)
    for token in range(3):
        ask(desk, "forward", token, x)
    gradient = ask(desk, "backward", 1, seed)
    z = x.clone().requires_grad_()
    (here,) = torch.autograd.grad(model(z).sum(), z)
    assert torch.equal(gradient, here.flatten())
    assert torch.equal(ask(desk, "backward", 1, seed), gradient)
    with pytest.raises(SubmittedAttackError, match="only the latest 2048 images"):
        ask(desk, "backward", 0, seed)
    with pytest.raises(SubmittedAttackError, match="only the latest 2048 images"):
        ask(desk, "backward", 2, seed, 2)
    with pytest.raises(SubmittedAttackError, match="another size than the logits"):
        ask(desk, "backward", 1, seed[1:])


def test_passes_are_allowed_to_the_last(model: nn.Module) -> None:
    desk = Desk(model, images(4), Allowance(2, 1))
    for token, n in enumerate((4, 1, 3)):
        ask(desk, "forward", token, images(n))
    ask(desk, "backward", 0, torch.ones(4, 5))
    with pytest.raises(SubmittedAttackError, match="more than 1 backward passes"):
        ask(desk, "backward", 1, torch.ones(1, 5))
    desk = Desk(model, images(4), Allowance(2, 1))
    ask(desk, "forward", 0, images(8))
    with pytest.raises(SubmittedAttackError, match="more than 2 forward passes"):
        ask(desk, "forward", 1, images(1))


REFUSED = {
    "no images": (b"", "asked for 0 bytes"),
    "a piece of one": (bytes(7), "asked for 7 bytes, which are not 1 to 1024 images"),
    "too many": (bytes(4 * 64 * 1025), "which are not 1 to 1024 images"),
    "not finite": (b"\xff" * 256, "values that are not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_are_looked_at_before_the_model_sees_them(model: nn.Module, name: str) -> None:
    payload, says = REFUSED[name]
    counted = Counted(model)
    desk = Desk(counted, images(2), Allowance(10**6, 0))
    header = {"kind": "forward", "token": 0, "release": [], "gradient": False}
    with pytest.raises(SubmittedAttackError, match=says) as failure:
        desk.answer(Frame(header, bytearray(payload)))
    assert failure.value.stage == "query"
    assert counted.forwards == 0
    _, answer = desk.answer(Frame(header, bytearray(raw(images(1024)))))
    assert len(answer) == 4 * 5 * 1024
    assert counted.forwards == 1024


@pytest.mark.parametrize("header", [{}, {"token": True, "release": []}, {"token": 0, "release": 3}])
def test_a_request_without_its_parts_is_none(model: nn.Module, header: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="a request without a number"):
        Desk(model, images(2), PASSES).answer(Frame({"kind": "forward", **header}, bytearray(256)))


def test_more_images_at_once_where_more_are_under_attack(model: nn.Module) -> None:
    desk = Desk(model, images(1).expand(1500, -1, -1, -1), PASSES)
    assert desk.most == 1500


def test_nothing_starts_without_walls(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Platform, "here", lambda: Platform("Linux", 0, False))
    with pytest.raises(ConfinementError, match=r"cannot confine a submitted attack\.py"):
        AttackProcess.start(template)
