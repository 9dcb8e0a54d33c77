"""Kill runs of every kind at random moments, finish them by the same command, and compare what they leave.

    python benchmarks/survival.py --kills 100 --out survival.csv

Every kind is run once undisturbed. Then, until its share of the kills is spent: the same command in a fresh
folder, SIGKILL of its whole process group at a random moment, again for half of them, and the command to its
end. Then disturbances of other kinds follow, one run each. A result counts as equal if its id and the hash
of all that was measured agree (seconds and host differ, `exchange.facts.Facts.result`), weights, images,
results.csv and tables to the byte.
"""

import argparse
import csv
import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.exchange.checking import check_together, look_over
from robustness_bench.benchmark.exchange.layout import finished, owner_of
from robustness_bench.benchmark.exchange.sources import Folder
from robustness_bench.benchmark.store.cells import read_records

ROOT = Path(__file__).parents[1]
BENCH = [sys.executable, "-m", "robustness_bench.benchmark.cli"]
TINY = ["--epochs", "2", "--train-limit", "192", "--width", "2", "--n-examples", "16", "--norm", "linf"]
RUN = ["run", *TINY, "--attacks", "pgd-40,aa-fast", "--keep-examples", "--gallery", "2"]
ONE = [*RUN, "--defense", "standard", "--threat", "white"]
DETECTORS = """
[dataset.digits.detection]
adaptive = ["white"]
n_examples = 8
adaptive_examples = 4
part_epochs = 3
training = { epochs = 1, train_limit = 520 }  # of which a fifth calibrates: 1 in 100 is flagged
parameters = { cw = { search_steps = 2, steps = 20 }, ead = { search_steps = 2, steps = 20 } }
adaptive_attack = { targets = 1, search_steps = 2, steps = 20 }
"""
NO_MEMORY = """
import os, torch
conv, most = torch.nn.Conv2d.forward, int(os.environ["MOST_IMAGES"])
def forward(self, x):
    if len(x) > most:
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
    return conv(self, x)
torch.nn.Conv2d.forward = forward
"""
_DERIVED = ("results.csv", "tables/*", "detector*.csv")
_PATIENCE = 900.0  # seconds: a run that takes longer hangs
_CAPBSET_DROP, _DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h


@dataclass(frozen=True)
class Kind:
    """One kind of run: its arguments ({config} is filled in), and what lies in its folder before."""

    name: str
    command: Sequence[str]
    before: str = ""
    """The kind whose finished checkpoints are there at the start."""
    needs: str = ""
    """A package without which it is left out."""


KINDS = (
    Kind("training and cells", [*RUN, "--defense", "standard,trades", "--workers", "2"]),
    Kind("estimators", [*RUN, "--defense", "namid", "--threat", "white", "--workers", "1"]),
    Kind(
        "evaluation",
        [*RUN, "--defense", "standard,trades", "--workers", "2"],
        before="training and cells",
    ),
    Kind("two processes a model", [*ONE, "--processes", "2", "--workers", "1"]),
    Kind(
        "detectors", ["run", "--defense", "magnet", "--kappa", "0", "--config", "{config}", "--workers", "2"]
    ),
    Kind("ray", [*ONE, "--workers", "2", "--engine", "ray"], needs="ray"),
    Kind(
        "slurm",
        [*ONE, "--workers", "2", "--engine", "slurm", "--engine-option", "cluster=local"],
        needs="submitit",
    ),
    Kind(
        "submission",
        ["submit", "run", str(ROOT / "examples/submission/standard-at-digits"), "--quick", "--workers", "2"],
    ),
)


@dataclass
class Tally:
    """What the kills of one kind came to.

    Attributes:
        kills: SIGKILLs while the command ran.
        late: times it was over before its moment came; not among the kills.
        resumed: runs that were killed and then finished.
        files: results of one undisturbed run.
        different, missing: results, over all resumed runs, that are not those of the undisturbed one.
        left: unfinished files that a resumed run left behind.
        failed: resumed runs that ended with an error.
    """

    kind: str
    kills: int = 0
    late: int = 0
    resumed: int = 0
    files: int = 0
    different: int = 0
    missing: int = 0
    left: int = 0
    failed: int = 0


@dataclass
class Bench:
    """Commands in a folder, with one thread a task, so that rounding is the same."""

    config: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    )

    def start(
        self, command: Sequence[str], out: Path, prepare: Callable[[], None] | None = None
    ) -> "subprocess.Popen[str]":
        filled = [each.format(config=self.config) for each in command]
        return subprocess.Popen(
            [*BENCH, *filled, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
            preexec_fn=prepare,
        )

    def finish(self, command: Sequence[str], out: Path) -> tuple[int, str]:
        """Return its exit status and what it said about errors."""
        process = self.start(command, out)
        _, said = process.communicate(timeout=_PATIENCE)
        return process.returncode, said


def fingerprint(out: Path) -> dict[str, str]:
    """Return name -> what is compared, for every result of a folder, which is checked by the way."""
    source = Folder(out)
    contents, faults = look_over(source)
    for fault in faults.values():
        raise fault
    check_together(source, contents)
    prints = {name: facts.result for name, facts in contents.items()}
    prints |= {
        name: source.digest(name) for name in source.names if owner_of(name) and "evidence" not in name
    }
    derived = [path for pattern in _DERIVED for path in sorted(out.glob(pattern)) if "cost" not in path.name]
    return prints | {path.relative_to(out).as_posix(): path.read_bytes().hex() for path in derived}


def differences(expected: dict[str, str], found: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return which results differ and which are missing."""
    different = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(different), sorted(expected.keys() - found.keys())


def leftovers(out: Path) -> list[Path]:
    """Return unfinished files."""
    return [*out.rglob("*.partial"), *out.rglob(".*.tmp")]


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a command with all processes it has started, and wait until they are gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def endure(kind: Kind, kills: int, bench: Bench, folder: Path, draw: random.Random) -> Iterator[Tally]:
    """Run a kind undisturbed, then kill it as often as asked; yield the same tally after each run."""
    tally = Tally(kind.name)
    start = folder / "start"
    if kind.before:
        shutil.copytree(folder.parent / kind.before / "whole/checkpoints", start / "checkpoints")
    began = time.monotonic()
    whole = _fresh(start, folder / "whole")
    status, said = bench.finish(kind.command, whole)
    if status:
        raise SystemExit(f"{kind.name}: undisturbed, it fails: {said.strip()}")
    lasted, expected = time.monotonic() - began, fingerprint(whole)
    tally.files = len(finished(whole))
    yield tally
    while tally.kills < kills:
        out = _fresh(start, folder / "broken")
        struck = 0
        while tally.kills < kills and (not struck or draw.random() < 0.5):
            process = bench.start(kind.command, out)
            try:
                process.communicate(timeout=draw.uniform(0.05, 1.0) * lasted)
            except subprocess.TimeoutExpired:
                kill(process)
                tally.kills, struck = tally.kills + 1, struck + 1
            else:
                tally.late += 1
                break
        if struck:
            _judge(tally, bench.finish(kind.command, out), expected, out)
            yield tally


def _judge(tally: Tally, ended: tuple[int, str], expected: dict[str, str], out: Path) -> None:
    tally.resumed += 1
    status, said = ended
    if status:
        tally.failed += 1
        print(f"  {tally.kind}: {said.strip()}", flush=True)
    different, missing = differences(expected, fingerprint(out))
    for name in (*different, *missing):
        print(f"  {tally.kind}: {name} is {'missing' if name in missing else 'different'}", flush=True)
    tally.different, tally.missing = tally.different + len(different), tally.missing + len(missing)
    tally.left += len(leftovers(out))


def _fresh(start: Path, out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    if start.is_dir():
        shutil.copytree(start, out)
    return out


class Disturbance:
    """One run that is disturbed otherwise than by SIGKILL; each method returns what was seen."""

    command = KINDS[0].command

    def __init__(self, bench: Bench, whole: Path, folder: Path) -> None:
        self.bench, self.whole, self.folder = bench, whole, folder
        self.expected = fingerprint(whole)

    def all(self) -> Iterator[tuple[str, str]]:
        for name in (
            "no_space",
            "read_only",
            "no_memory",
            "two_at_once",
            "clock_jumps",
            "stopped_worker",
            "truncated",
        ):
            out = self.folder / name
            shutil.rmtree(out, ignore_errors=True)
            yield name.replace("_", " "), getattr(self, name)(out)

    def no_space(self, out: Path) -> str:
        """Files may not grow beyond 20 kB, as on a disk that is full."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

        process = self.bench.start(self.command, out, limit)
        _, said = process.communicate(timeout=_PATIENCE)
        return f"status {process.returncode}, {len(said.strip().splitlines())} line; {self._resumed(out)}"

    def read_only(self, out: Path) -> str:
        """Half of the results are there, and nobody may write into the folder, root neither."""

        def forbid() -> None:
            ctypes.CDLL(None).prctl(_CAPBSET_DROP, _DAC_OVERRIDE, 0, 0, 0)

        shutil.copytree(self.whole, out)
        shutil.rmtree(out / "records")
        folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        process = self.bench.start(self.command, out, forbid)
        _, said = process.communicate(timeout=_PATIENCE)
        for path in folders:
            path.chmod(0o755)
        return f"status {process.returncode}, {len(said.strip().splitlines())} line; {self._resumed(out)}"

    def no_memory(self, out: Path) -> str:
        """More than 8 images do not fit: batches of attacks are halved, those of a training may not be."""
        patch = self.folder / "patch"
        patch.mkdir(exist_ok=True)
        (patch / "sitecustomize.py").write_text(NO_MEMORY)
        path = f"{patch}{os.pathsep}{self.bench.environment['PYTHONPATH']}"
        short = Bench(self.bench.config, {**self.bench.environment, "PYTHONPATH": path, "MOST_IMAGES": "8"})
        shutil.copytree(self.whole / "checkpoints", out / "checkpoints")
        status, _ = short.finish([*self.command, "--no-diagnosis"], out)  # which is of 16 images at once
        fates = [[record.robust.tolist() for record in read_records(each)] for each in (self.whole, out)]
        attacks = f"attacks: status {status}, outcomes equal {fates[0] == fates[1]}"
        shutil.rmtree(out)
        status, said = short.finish(self.command, out)
        named = "out of memory" in said
        return f"{attacks}; training: status {status}, named {named}, then {self._resumed(out)}"

    def two_at_once(self, out: Path) -> str:
        first = self.bench.start(self.command, out)
        while not (out / ".lock").exists():
            time.sleep(0.05)
        time.sleep(1.0)
        status, said = self.bench.finish(self.command, out)
        first.communicate(timeout=_PATIENCE)
        refused = "another bench run is writing" in said
        went_on = f"first: status {first.returncode}, {self._compared(out)}"
        return f"second: status {status}, refused {refused}; {went_on}"

    def clock_jumps(self, out: Path) -> str:
        """Killed, then finished with every file a year in the future, and again a year in the past."""
        for year in (365, -365):
            process = self.bench.start(self.command, out)
            time.sleep(8.0)
            kill(process)
            moment = time.time() + year * 86400
            for path in out.rglob("*"):
                os.utime(path, (moment, moment))
        return self._resumed(out)

    def stopped_worker(self, out: Path) -> str:
        """A worker stands still for 10 seconds, then goes on; then one stands still until all are killed."""
        process = self.bench.start(self.command, out)
        self._stop_one(process, out)
        time.sleep(10)
        os.killpg(process.pid, signal.SIGCONT)
        process.communicate(timeout=_PATIENCE)
        late = f"late: status {process.returncode}, {self._compared(out)}"
        shutil.rmtree(out)
        process = self.bench.start(self.command, out)
        self._stop_one(process, out)
        time.sleep(10)
        kill(process)
        return f"{late}; hanging, killed: {self._resumed(out)}"

    def _stop_one(self, process: "subprocess.Popen[str]", out: Path) -> None:
        """Stop a worker after the first checkpoint."""
        deadline = time.monotonic() + _PATIENCE
        while not list(out.glob("checkpoints/*/*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        lists = Path(f"/proc/{process.pid}/task").glob("*/children")
        workers = [int(pid) for each in lists for pid in each.read_text().split()]
        os.kill(max(workers), signal.SIGSTOP)

    def truncated(self, out: Path) -> str:
        """A file of each kind is cut: it must be named, and `bench mend` and the same run bring it back.

        But for models and images on a surrogate, of which finished cells need none.
        """
        names = finished(self.whole)
        kinds = {(name.partition("/")[0], Path(name).suffix): name for name in names}
        named = again = spare = 0
        for name in kinds.values():
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(self.whole, out)
            os.truncate(out / name, (out / name).stat().st_size * 2 // 3)
            looked = subprocess.run(
                [*BENCH, "mend", str(out)],
                capture_output=True,
                text=True,
                env=self.bench.environment,
                check=False,
            )
            named += name in looked.stdout
            shutil.rmtree(out / "damaged", ignore_errors=True)
            status, _ = self.bench.finish(self.command, out)
            different, missing = differences(self.expected, fingerprint(out))
            again += not (status or different or missing)
            spare += bool(missing) and all(each.startswith(("checkpoints/", "crafted/")) for each in missing)
            for each in (*different, *missing):
                print(
                    f"  {name} was cut: {each} is {'missing' if each in missing else 'different'}", flush=True
                )
        return f"{len(kinds)} kinds of files: {named} named, {again} made again, equal, {spare} not needed"

    def _resumed(self, out: Path) -> str:
        status, said = self.bench.finish(self.command, out)
        return f"status {status}: {said.strip()}" if status else f"finished, {self._compared(out)}"

    def _compared(self, out: Path) -> str:
        different, missing = differences(self.expected, fingerprint(out))
        if different or missing:
            return f"{len(different)} different, {len(missing)} missing"
        return "all equal"


@contextmanager
def _cluster(environment: dict[str, str]) -> Iterator[None]:
    """A Ray cluster of two cores, which a command with this environment finds."""
    from ray.cluster_utils import Cluster

    os.environ.update(environment)  # workers have that of their node
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    environment["RAY_ADDRESS"] = cluster.address
    try:
        yield
    finally:
        cluster.shutdown()
        del environment["RAY_ADDRESS"]


@contextmanager
def _workplace(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="survival-") as folder:
            yield Path(folder)
    else:
        keep.mkdir(parents=True)
        yield keep


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="over all kinds")
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS], help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--no-disturbances", action="store_true", help="kill only")
    parser.add_argument("--out", type=Path, help="CSV of the counts")
    parser.add_argument("--keep", type=Path, help="a new folder for the results, which else are deleted")
    asked = parser.parse_args()
    kinds = [kind for kind in KINDS if kind.name in (asked.kind or [each.name for each in KINDS])]
    kinds = [kind for kind in kinds if not kind.needs or find_spec(kind.needs)]
    draw = random.Random(asked.seed)
    tallies: list[Tally] = []
    with _workplace(asked.keep) as folder:
        bench = Bench(folder / "detectors.toml")
        bench.config.write_text(DETECTORS)
        for number, kind in enumerate(kinds):
            kills = asked.kills * (number + 1) // len(kinds) - asked.kills * number // len(kinds)
            with _cluster(bench.environment) if kind.needs == "ray" else nullcontext():
                for tally in endure(kind, kills, bench, folder / kind.name, draw):
                    print(", ".join(f"{key} {value}" for key, value in asdict(tally).items()), flush=True)
                    if asked.out:
                        _write(asked.out, [*tallies, tally])
            tallies.append(tally)
        if not asked.no_disturbances:
            for name, seen in Disturbance(bench, folder / KINDS[0].name / "whole", folder).all():
                print(f"{name}: {seen}", flush=True)
    if any(tally.different or tally.missing or tally.failed for tally in tallies):
        sys.exit(1)


def _write(path: Path, tallies: Sequence[Tally]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(tallies[0])))
        writer.writeheader()
        writer.writerows(asdict(each) for each in tallies)


if __name__ == "__main__":
    main()
