"""Run other libraries' attacks on the shared problem and keep what we measure of their images.

    python -m pip install --no-deps torchattacks==3.5.1 adv-lib==0.2.8
    python -m pip install tqdm visdom
    python -m tests.attacks.parity.record

Writes ``recorded.json``, which ``tests/attacks/test_parity.py`` compares with our attacks; the tests
need neither library. (``--no-deps``: torchattacks pins releases older than ours. adv-lib only imports
visdom, so an empty module of that name does.) Delete the weights beside this file to train them anew.

Success, norms and box are judged here, never by the library. So measured ("faults" in the record), where
the attack named is not used as a reference:

- torchattacks' CW takes masked logits for zeros, so adding a constant to all logits, which changes no
  model, changes what it finds: 78 of 100 images broken as they are, none at -100, all 100 at +100 (where
  the mean distance is that of our CW with the same single constant).
- torchattacks' CW ignores its confidence κ when it chooses the image to keep: with κ = 2 and logits at
  +100 it breaks 100 images, and the margin of none exceeds 2.
- torchattacks' CW never moves a pixel of exactly 0 or 1, whose tanh coordinate is infinite.
- torchattacks' EADEN leaves the box: every one of the 100 images does, with pixels from -0.29 to 1.17.
  Clipped into it, 57 fool the model.
"""

import importlib
import json
import math
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from tests.attacks.parity.problem import RECORDED, WEIGHTS, Problem, digits, fingerprint, network, problem

TRAINING, TESTS = 1400, 100  # the first rows train, the tests are taken from the rest
ORDER = {"linf": math.inf, "l2": 2.0}


class Run(NamedTuple):
    """One attack of another library, with its settings in that library's own names."""

    library: str
    attack: str
    norm: str
    eps: float | None
    """The budget; None for an attack that looks for the nearest adversarial image."""
    settings: dict[str, Any]


LINF, L2 = 0.1, 0.53  # where about half of the images survive
PGD: dict[str, Any] = {"steps": 40, "random_start": False}
SEARCH: dict[str, Any] = {
    "learning_rate": 0.05,
    "initial_const": 1.0,
    "binary_search_steps": 5,
    "max_iterations": 100,
    "abort_early": False,
}
RUNS = {
    "pgd-linf": Run("torchattacks", "PGD", "linf", LINF, {**PGD, "eps": LINF, "alpha": 0.01}),
    "pgd-l2": Run("torchattacks", "PGDL2", "l2", L2, {**PGD, "eps": L2, "alpha": 0.053}),
    "apgd-linf": Run("torchattacks", "APGD", "linf", LINF, {"norm": "Linf", "eps": LINF, "steps": 50}),
    "apgd-l2": Run("torchattacks", "APGD", "l2", L2, {"norm": "L2", "eps": L2, "steps": 50}),
    "cw": Run("adv-lib", "carlini_wagner_l2", "l2", None, {**SEARCH, "confidence": 0.0}),
    "cw-confident": Run("adv-lib", "carlini_wagner_l2", "l2", None, {**SEARCH, "confidence": 2.0}),
    "ddn": Run("adv-lib", "ddn", "l2", None, {"steps": 100, "γ": 0.05, "init_norm": 1.0, "levels": None}),
    "fab-linf": Run("adv-lib", "fab", "linf", None, {"n_iter": 50, "targeted_restarts": True}),
    "fab-l2": Run("adv-lib", "fab", "l2", None, {"n_iter": 50, "targeted_restarts": True}),
}
FAULTY_CW = Run("torchattacks", "CW", "l2", None, {"c": 5.0, "kappa": 2.0, "steps": 150, "lr": 0.02})
FAULTY_EAD = Run(
    "torchattacks",
    "EADEN",
    "l2",
    None,
    {"lr": 0.02, "initial_const": 1.0, "binary_search_steps": 6, "max_iterations": 150, "abort_early": False},
)


class Shifted(nn.Module):
    """The same classes with the same margins: a constant is added to every logit."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + self.by


def train() -> None:
    """Write the weights, and the rows of the first test images that they classify correctly."""
    x, y = digits()
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(1000):
        rows = torch.randint(0, TRAINING, (64,))
        optimizer.zero_grad()
        functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        right = model(x).argmax(1) == y
    right[:TRAINING] = False
    WEIGHTS.write_bytes(save({**model.state_dict(), "rows": right.nonzero()[:TESTS, 0]}))


def images(run: Run, on: Problem, seed: int = 0) -> Tensor:
    """What the library makes: (N, C, H, W)."""
    torch.manual_seed(seed)
    x, y = on.x.clone(), on.y.clone()
    if run.library == "torchattacks":
        attack = getattr(importlib.import_module("torchattacks"), run.attack)
        found = attack(on.model, **run.settings)(x, y)
    else:
        attack = getattr(importlib.import_module("adv_lib.attacks"), run.attack)
        norm = {"norm": ORDER[run.norm]} if run.attack == "fab" else {}
        found = attack(on.model, x, y, **norm, **run.settings)
    x_adv: Tensor = found.detach()
    return x_adv


def margins(on: Problem, x_adv: Tensor) -> Tensor:
    """The lead of the best wrong class, above 0 where the model errs: (N,)."""
    with torch.no_grad():
        logits: Tensor = on.model(x_adv)
    true = on.y[:, None]
    return logits.scatter(1, true, -torch.inf).amax(1) - logits.gather(1, true)[:, 0]


def judged(run: Run, on: Problem, x_adv: Tensor) -> dict[str, Any]:
    """The library's images by our own measure, sample by sample.

    Fooled is an image inside the box and the budget whose class is wrong, whatever the library says.
    """
    distance = torch.linalg.vector_norm((x_adv - on.x).flatten(1), ord=ORDER[run.norm], dim=1)
    allowed = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    if run.eps is not None:
        allowed &= distance <= run.eps * (1 + 1e-5) + 1e-6
    lead = margins(on, x_adv)
    fooled = (lead > 0) & allowed
    return {
        "robust_accuracy": round(1 - fooled.double().mean().item(), 4),
        "outside_box_or_budget": int((~allowed).sum()),
        "fooled": fooled.int().tolist(),
        "distance": [round(value, 6) for value in distance.tolist()],
        "margin": [round(value, 5) for value in lead.tolist()],
    }


def random_starts(run: Run, on: Problem) -> list[int]:
    """How many images fall from random starts, for each of the seeds 0 to 4."""
    started = run._replace(settings={**run.settings, "random_start": True})
    return [sum(judged(started, on, images(started, on, seed))["fooled"]) for seed in range(5)]


def faults(on: Problem) -> dict[str, Any]:
    """What this module's docstring says of attacks that are no reference."""
    kappa = FAULTY_CW.settings["kappa"]
    careless = FAULTY_CW._replace(settings={**FAULTY_CW.settings, "kappa": 0.0})
    broken, mean = {}, {}
    for by in (-100.0, 0.0, 100.0):
        shifted = on._replace(model=Shifted(on.model, by).eval())
        found = images(careless, shifted)
        fooled = margins(on, found) > 0
        broken[f"{by:+g}"] = int(fooled.sum())
        if fooled.all():
            mean[f"{by:+g}"] = round((found - on.x).flatten(1).norm(dim=1).mean().item(), 4)
    confident = images(FAULTY_CW, on._replace(model=Shifted(on.model, 100.0).eval()))
    extreme = (on.x == 0) | (on.x == 1)
    ead = images(FAULTY_EAD, on)
    return {
        "cw": {
            **FAULTY_CW._asdict(),
            "broken_at_kappa_0_by_shift_of_all_logits": broken,
            "mean_distance_where_all_are_broken": mean,
            "broken_at_kappa_shifted_by_100": int((margins(on, confident) > 0).sum()),
            "of_these_with_margin_above_kappa": int((margins(on, confident) > kappa).sum()),
            "pixels_of_0_or_1": int(extreme.sum()),
            "of_these_moved": int((confident != on.x)[extreme].sum()),
        },
        "ead": {
            **FAULTY_EAD._asdict(),
            "images_outside_box": judged(FAULTY_EAD, on, ead)["outside_box_or_budget"],
            "pixels_from_to": [round(ead.min().item(), 3), round(ead.max().item(), 3)],
            "fooled_once_clipped": int((margins(on, ead.clamp(0, 1)) > 0).sum()),
        },
    }


def main() -> None:
    """Record every run, and print a line for each."""
    torch.set_num_threads(1)
    if not WEIGHTS.exists():
        train()
    on = problem()
    entries: dict[str, Any] = {
        "command": "python -m tests.attacks.parity.record",
        "versions": {name: version(name) for name in ("torch", "torchattacks", "adv-lib")},
        "problem_sha256": fingerprint(),
    }
    for name, run in RUNS.items():
        entries[name] = {**run._asdict(), **judged(run, on, images(run, on))}
        if "random_start" in run.settings:
            entries[name]["broken_from_random_starts"] = random_starts(run, on)
        mean = sum(entries[name]["distance"]) / TESTS
        print(f"{name:14} robust accuracy {entries[name]['robust_accuracy']:.2f}, mean distance {mean:.4f}")
    entries["faults"] = faults(on)
    print(json.dumps(entries["faults"], indent=1))
    # One entry a line: a record is compared line by line.
    lines = (
        f"{json.dumps(name)}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in entries.items()
    )
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
