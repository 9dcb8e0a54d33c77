"""A submitted model in a process of its own: the honest one is the same module, the others do no harm."""

import gc
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustness_bench.attacks.base import AttackError, Counted
from robustness_bench.attacks.pgd import PGD
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.sandbox import child
from robustness_bench.benchmark.sandbox.confinement import ConfinementError, Limits, Platform
from robustness_bench.benchmark.sandbox.failures import ModelError
from robustness_bench.benchmark.sandbox.process import ModelProcess
from robustness_bench.benchmark.sandbox.remote import RemoteModel
from robustness_bench.benchmark.sandbox.walls import bubblewrap
from tests.benchmark.sandbox.forked import forking
from tests.benchmark.sandbox.hostile import escaping, needs_walls, targets, tree_hash
from tests.benchmark.sandbox.hostile_models.failing import CALLED, STARTING, Failing
from tests.benchmark.sandbox.hostile_models.moods import MOODS
from tests.conftest import ROOT
from tests.support import images

pytestmark = needs_walls

_FOLDER = Path(__file__).parent / "hostile_models"
_SHAPE = {"classes": 5, "channels": 1, "size": 8}


def _start(model_file: Path, weights: Path | None = None, **limits: float) -> RemoteModel:
    return RemoteModel.start(
        model_file,
        weights,
        classes=5,
        channels=1,
        size=8,
        limits=Limits(**limits),  # type: ignore[arg-type]
    )


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, _FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = _module("honest").build(**_SHAPE)
    network[1].running_mean.normal_(generator=torch.Generator().manual_seed(seed))  # type: ignore[index]
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module", autouse=True)
def earlier() -> set[int]:
    """Children of this process that other tests have left, such as multiprocessing's own."""
    return _children(os.getpid())


@pytest.fixture(scope="module")
def local() -> nn.Module:
    return _network()


@pytest.fixture(scope="module")
def honest(local: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteModel]:
    weights = tmp_path_factory.mktemp("honest") / "any-name.safetensors"
    save_file(local.state_dict(), weights)
    with _start(_FOLDER / "honest.py", weights) as model:
        yield model


@pytest.fixture(scope="module")
def moody() -> Iterator[RemoteModel]:
    with _start(_FOLDER / "moods.py", memory=2**30) as model:
        yield model


def _gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    z = model(x)
    (gradient,) = torch.autograd.grad((z * torch.linspace(-1, 2, 5)).square().sum(), x)
    return gradient


# The honest model


@pytest.mark.parametrize("n", [1, 7, 128, 1000])
def test_logits_and_gradients_are_the_local_ones(honest: RemoteModel, local: nn.Module, n: int) -> None:
    x = images(n)
    with torch.no_grad():
        assert torch.equal(honest(x), local(x))
    assert torch.equal(_gradient(honest, x), _gradient(local, x))
    assert not honest.gradient_missing


def test_layout_of_the_images_does_not_matter(honest: RemoteModel, local: nn.Module) -> None:
    last = images(6).to(memory_format=torch.channels_last)
    strided = images(12)[::2].transpose(2, 3)
    for x in (last, strided, images(1).expand(3, -1, -1, -1)):
        plain = torch.empty(x.shape).copy_(x)
        assert torch.equal(honest(x), local(plain))
        assert torch.equal(_gradient(honest, x), _gradient(local, plain))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_finds_the_same_images(honest: RemoteModel, local: nn.Module, norm: str) -> None:
    x = images(40)
    y = local(x).argmax(1)
    attack = PGD(norm=norm, eps=0.1 if norm == "linf" else 0.5, steps=7, restarts=2)  # type: ignore[arg-type]
    here, there = attack(local, x, y), attack(honest, x, y)
    assert torch.equal(here.x_adv, there.x_adv)
    assert (here.prediction != y).any()
    assert (here.forwards, here.backwards) == (there.forwards, there.backwards)


def test_has_no_weights_of_its_own(honest: RemoteModel) -> None:
    assert not list(honest.parameters())
    assert not honest.state_dict()


def test_without_gradients_nothing_is_kept_for_them(honest: RemoteModel) -> None:
    assert not honest(images(2)).requires_grad
    with torch.no_grad():
        assert not honest(images(2).requires_grad_()).requires_grad


def test_no_images_have_no_logits(honest: RemoteModel) -> None:
    x = images(0).requires_grad_()
    assert honest(x).shape == (0, 5)
    (gradient,) = torch.autograd.grad(honest(x).sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("x", [images(2).double(), images(2, size=9), images(2, channels=3), images(2)[0]])
def test_other_images_are_refused_here(honest: RemoteModel, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected float32 images \(N, 1, 8, 8\), got"):
        honest(x)


def test_graphs_are_kept_apart_and_for_more_than_one_gradient(honest: RemoteModel, local: nn.Module) -> None:
    xs = [images(3, seed=seed).requires_grad_() for seed in range(3)]
    zs = [honest(x) for x in xs]
    for x, z in reversed(list(zip(xs, zs, strict=True))):
        for k in (0, 4):
            (there,) = torch.autograd.grad(z[:, k].sum(), x, retain_graph=True)
            (here,) = torch.autograd.grad(local(x)[:, k].sum(), x)
            assert torch.equal(there, here)


def test_graphs_that_nobody_needs_make_room(honest: RemoteModel) -> None:
    x = images(2).requires_grad_()
    z = honest(x)
    for _ in range(2 * child.KEPT):
        honest(x)
    torch.autograd.grad(z.sum(), x)


def test_so_many_graphs_are_kept(honest: RemoteModel) -> None:
    gc.collect()
    x = images(2).requires_grad_()
    zs = [honest(x) for _ in range(child.KEPT + 1)]
    torch.autograd.grad(zs[1].sum(), x)
    with pytest.raises(ModelError, match="latest 16 forward passes"):
        torch.autograd.grad(zs[0].sum(), x)
    honest(x)


def test_second_derivative_is_refused(honest: RemoteModel) -> None:
    x = images(2).requires_grad_()
    (gradient,) = torch.autograd.grad(honest(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_threads_take_turns(honest: RemoteModel, local: nn.Module) -> None:
    batches = [images(5, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for x, there in zip(batches, pool.map(lambda x: _gradient(honest, x), batches), strict=True):
            assert torch.equal(there, _gradient(local, x))


def test_random_weights_are_the_same_in_every_process_and_prints_go_nowhere(
    moody: RemoteModel, capfd: pytest.CaptureFixture[str]
) -> None:
    x = _in_mood("good")
    with _start(_FOLDER / "moods.py") as again:
        assert torch.equal(moody(x), again(x))
        again(_in_mood("prints"))
    assert capfd.readouterr() == ("", "")


# Models that misbehave and go on


def _in_mood(mood: str, n: int = 4) -> Tensor:
    x = images(n)
    x[0, 0, 0, 0] = list(MOODS).index(mood) / 255
    return x


@pytest.mark.parametrize(
    ("mood", "stage", "says"),
    [
        ("wide", "output", r"shape \(4, 10\) for 4 images, not \(4, 5\)"),
        ("transposed", "output", r"shape \(5, 4\)"),
        ("double", "output", r"returned torch\.float64, not torch\.float32"),
        ("integer", "output", r"returned torch\.int64"),
        ("tuple", "output", "returned a tuple, not a tensor"),
        ("nothing", "output", "returned a NoneType"),
        ("sparse", "output", "returned"),
        ("huge", "output", r"shape \(1000000, 1000000\)"),
        ("memory", "memory", "allocate memory"),
        ("unspeakable", "forward", "an error that cannot be shown"),
        ("exits", "forward", "SystemExit: 0"),
        ("interrupts", "forward", r"KeyboardInterrupt.*model\.py, line \d+"),
    ],
)
def test_misbehaviour_is_told_and_survived(moody: RemoteModel, mood: str, stage: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as failure:
        moody(_in_mood(mood))
    assert failure.value.stage == stage
    assert isinstance(failure.value, BenchError)
    assert "\n" not in str(failure.value)
    assert moody(_in_mood("good")).isfinite().all()


def test_long_and_coloured_words_are_cut_and_plain(moody: RemoteModel) -> None:
    with pytest.raises(ModelError, match=r"RuntimeError: \?\[31mred\?\? long") as failure:
        moody(_in_mood("raises"))
    assert len(str(failure.value)) < 500
    assert str(failure.value).isprintable()


def test_what_is_not_finite_arrives(moody: RemoteModel) -> None:
    assert moody(_in_mood("nan")).isnan().all()
    assert moody(_in_mood("infinite")).isinf().all()
    with pytest.raises(AttackError, match="not finite"):
        Counted(moody)(_in_mood("nan"))
    assert _gradient(moody, _in_mood("nan-gradient")).isnan().all()


def test_gradients_are_prepared_only_where_they_are_wanted(moody: RemoteModel) -> None:
    x = _in_mood("mode")
    assert (moody(x.clone().requires_grad_()) == 1).all()
    assert (moody(x) == 0).all()
    with torch.no_grad():
        assert (moody(x.clone().requires_grad_()) == 0).all()


def test_layout_of_the_logits_does_not_matter(moody: RemoteModel) -> None:
    x = _in_mood("strided")
    with torch.no_grad():
        assert moody(x).is_contiguous()
        assert not torch.equal(moody(x)[:, 0], moody(x)[:, 1])
        good = _in_mood("good")
        assert torch.allclose(moody(x)[1:], moody(good)[1:])


def test_probabilities_and_noise_arrive(moody: RemoteModel) -> None:
    assert torch.allclose(moody(_in_mood("softmax")).sum(1), torch.ones(4))
    first, second = moody(_in_mood("random")), moody(_in_mood("random"))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mood", ["detached", "unrelated"])
def test_missing_gradient_is_zero_and_noted(moody: RemoteModel, mood: str) -> None:
    moody.gradient_missing = False
    assert _gradient(moody, _in_mood("good")).any()
    assert not moody.gradient_missing
    assert torch.equal(_gradient(moody, _in_mood(mood)), torch.zeros(4, 1, 8, 8))
    assert moody.gradient_missing


def test_failure_of_a_backward_pass_is_told(moody: RemoteModel) -> None:
    x = _in_mood("no-way-back").requires_grad_()
    with pytest.raises(ModelError, match="ValueError: no way back") as failure:
        moody(x).sum().backward()
    assert failure.value.stage == "backward"
    assert _gradient(moody, _in_mood("good")).any()


# Models that do not start, or do not survive


def _without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    del state["1.running_mean"]
    return {**state, "extra": torch.zeros(1)}


_HONEST = (_FOLDER / "honest.py").read_text()


def _spoiled(says: str) -> Failing:
    return Failing(_HONEST, "weights", says)


_SPOILED: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], Failing]] = {
    "names": (_without, _spoiled(r"Missing key.*running_mean.*Unexpected key.*extra")),
    "shape": (
        lambda state: {**state, "5.bias": torch.zeros(4)},
        _spoiled(r"size mismatch for 5\.bias"),
    ),
    "nan": (
        lambda state: {**state, "5.bias": torch.tensor([0, 1, torch.nan, 0, 0])},
        _spoiled(r"5\.bias has values that are not finite"),
    ),
    "pickle": (lambda state: {}, _spoiled("no safetensors file")),
}
_CASES = {**STARTING, **CALLED, **{f"weights-{name}": case for name, (_, case) in _SPOILED.items()}}


def _weights(name: str, folder: Path) -> Path | None:
    if not name.startswith("weights-"):
        return None
    path = folder / "weights.safetensors"
    state = _SPOILED[name.removeprefix("weights-")][0](_network().state_dict())
    save_file(state, path) if state else torch.save({"a": torch.zeros(1)}, path)
    return path


class Ended(NamedTuple):
    """What was said of a model when it was first asked, and when it was asked again."""

    error: ModelError
    again: ModelError | None


def _ended(name: str, folder: Path) -> Ended:
    case = _CASES[name]
    (folder / "model.py").write_text(case.source)
    try:
        model = _start(folder / "model.py", _weights(name, folder), **case.limits)
    except ModelError as error:
        return Ended(error, None)
    with model, pytest.raises(ModelError) as failure:  # noqa: PT012 - either may fail
        z = model(images(2).requires_grad_())
        if case.backward:
            z.sum().backward()
    with pytest.raises(ModelError) as again:
        model(images(2))
    return Ended(failure.value, again.value)


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All of them; those that need a fresh Python two at a time, as most of it is waiting for torch."""
    folders = {name: tmp_path_factory.mktemp("failing") for name in _CASES}
    found = {}
    with forking():
        for name in [name for name in _CASES if not _CASES[name].fresh]:
            found[name] = _ended(name, folders[name])
    fresh = [name for name in _CASES if _CASES[name].fresh]
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda name: _ended(name, folders[name]), fresh)
        return found | dict(zip(fresh, ended, strict=True))


@pytest.mark.parametrize("name", _CASES)
def test_it_ends_with_one_line(endings: dict[str, Ended], name: str) -> None:
    (error, again), wanted = endings[name], _CASES[name]
    assert error.stage == wanted.stage, str(error)
    assert re.search(wanted.says, str(error)), str(error)
    assert re.fullmatch(rf"the submitted model failed \({wanted.stage}\): .+; .+", str(error))
    assert str(error).isprintable()
    assert len(str(error)) < 500
    assert again is (error if name in CALLED else None)


def test_nothing_of_them_is_left(
    earlier: set[int], endings: dict[str, Ended], honest: RemoteModel, moody: RemoteModel
) -> None:
    served = {honest._process._process.pid, moody._process._process.pid}
    assert not _children(os.getpid()) - earlier - served


def _children(pid: int) -> set[int]:
    """The processes of another, dead ones that it has not waited for among them."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return set(map(int, listed))


# Around it


def test_no_escape_from_a_served_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_TEST_SECRET", "secret")
    # The floor alone: inside bubblewrap nothing but the scratch folder has even a name.
    monkeypatch.setattr(bubblewrap, "problem", lambda: "left out")
    with targets(tmp_path) as aim:
        (tmp_path / "submission" / "model.py").write_text(escaping(aim))
        before = [tree_hash(tmp_path / name) for name in ("store", "submission")]
        with pytest.raises(ModelError, match=r'RuntimeError: \{"succeeded": \[\], "odd": \[\]\}'):
            _start(tmp_path / "submission" / "model.py")
        assert [tree_hash(tmp_path / name) for name in ("store", "submission")] == before


def test_close_ends_what_goes_on_and_clears_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "model.py").write_text(
        "import threading, time\nfrom torch import nn\n"
        "def build(*, classes, channels, size):\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    open('kept', 'w').write('here')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))\n"
    )
    model = _start(tmp_path / "model.py")
    pid = model._process._process.pid
    ends = (model._process._channel._reading, model._process._channel._writing)
    (scratch,) = tmp_path.glob("bench-model-*/files")
    assert sorted(path.name for path in scratch.iterdir()) == ["kept", "model.py"]
    assert os.getpgid(pid) == pid
    model.close()
    model.close()
    assert not Path(f"/proc/{pid}").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert model._process._errors.closed
    for end in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)
    with pytest.raises(ModelError, match="it was closed"):
        model(images(1))


def test_a_forgotten_model_is_closed(honest: RemoteModel) -> None:
    class Ends:
        closed = False

        def close(self) -> None:
            self.closed = True

    ends = Ends()
    model = RemoteModel(cast(ModelProcess, ends), **_SHAPE)
    assert not ends.closed
    del model
    gc.collect()
    assert ends.closed


def test_it_ends_with_its_parent_even_while_busy(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import time\nopen('busy', 'w')\ntime.sleep(600)\n")
    program = f"""
import sys, tempfile
sys.path.insert(0, {str(ROOT)!r})
tempfile.tempdir = {str(tmp_path)!r}
from pathlib import Path
from robustness_bench.benchmark.sandbox.confinement import Limits
from robustness_bench.benchmark.sandbox.process import ModelProcess, Settings
settings = Settings(5, 1, 8, "cpu", 1, {str(Path(torch.__file__).parents[1])!r})
ModelProcess(Path({str(tmp_path)!r}, "model.py"), None, Limits(), settings)
"""
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        _until(lambda: parent.poll() is not None or any(tmp_path.glob("bench-model-*/files/busy")))
        assert parent.returncode is None
        (pid,) = _children(parent.pid)
        parent.kill()
    _until(lambda: not Path(f"/proc/{pid}/cwd").exists())


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_starts_without_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Platform, "here", lambda: Platform("Linux", 0, False))
    with pytest.raises(ConfinementError, match=r"cannot confine a submitted model\.py"):
        _start(_FOLDER / "honest.py")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot read .*no-such\.py: No such file.*; check the path"):
        _start(tmp_path / "no-such.py")
    with pytest.raises(BenchError, match=r"cannot read .*none\.safetensors"):
        _start(_FOLDER / "honest.py", tmp_path / "none.safetensors")
