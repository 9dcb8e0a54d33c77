"""EAD, elastic-net attacks: Chen et al. 2018, https://arxiv.org/abs/1709.04114, algorithm 1."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustness_bench.attacks.constant_search import ConstantSearchAttack, Nearest, hinge, improved
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.numerics.noise import Noise

Rule = Literal["en", "l1"]


@dataclass(frozen=True, kw_only=True)
class EAD(ConstantSearchAttack):
    """Minimise ‖x' - x‖₂² + β ‖x' - x‖₁ + c · f(x') by FISTA in the box [0, 1].

    Args: those of ``ConstantSearchAttack``, and
        step_size: first step size of FISTA, in pixel units; it falls as √(1 - k / steps).
        beta: weight of the L1 distance, and threshold of the shrinkage.
        rule: which adversarial iterate is kept: "en", the one with the smallest ‖·‖₂² + β ‖·‖₁, or
            "l1", with the smallest ‖·‖₁. The iterates are the same.

    Differs from the paper: as in the authors' code, the momentum is k / (k + 3), and c counts as a
    success if any iterate succeeded. Their code ends a search step for a whole batch; here each
    sample ends it separately. Passes that can change nothing are left out (see ``perturb_all``).
    """

    rules: ClassVar[tuple[str, ...]] = ("en", "l1")

    beta: float = 0.1
    abort_early: bool = False
    rule: Rule = "en"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < torch.inf:
            raise ValueError(f"beta must be at least 0 and finite, got {self.beta}")
        if self.rule not in self.rules:
            raise ValueError(f"rule must be one of {self.rules}, got {self.rule!r}")

    def passes(self, classes: int) -> tuple[int, int]:
        forwards, backwards = super().passes(classes)
        return forwards + self.search_steps * self.steps, backwards

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return self.perturb_all(model, x, y, noise)[self.rule]

    def perturb_all(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return the images of every rule, from one shared run: rule -> (N, C, H, W).

        As for ``perturb``, the caller has put ``model`` into evaluation mode with frozen weights.
        An iterate is judged by a forward pass only where that can matter: until the first success of
        the search step, and later only if it is nearer than what a rule has kept.
        """
        start, images, margins, search = self.begun(model, x, y, noise)
        kept, searching = {rule: Nearest(x) for rule in self.rules}, torch.arange(len(x), device=x.device)
        for rule, distance in zip(self.rules, self._distances(images - x), strict=True):
            kept[rule].offer(searching, images, distance, margins > self.confidence)
        for _ in range(self.search_steps):
            success = torch.zeros_like(y, dtype=torch.bool)
            before = [nearest.distance.clone() for nearest in kept.values()]
            rows = searching  # the samples still in this search step
            natural, labels, c = x[rows], y[rows], search.c[rows]
            x_k = y_k = start[rows]
            previous = torch.full_like(c, torch.inf)
            for k in range(self.steps):
                if not len(rows):
                    break
                step_size = self.step_size * (1.0 - k / self.steps) ** 0.5
                gradient = 2.0 * (y_k - natural) + self._hinge_gradient(model, y_k, labels, c)
                x_old, x_k = x_k, shrink(y_k - step_size * gradient, natural, self.beta)
                y_k = x_k + k / (k + 3) * (x_k - x_old)

                en, l1 = self._distances(x_k - natural)
                check = self.checks_progress(k)
                matters = ~success[rows] | (l1 < kept["l1"].distance[rows]) | (en < kept["en"].distance[rows])
                judge = torch.ones_like(matters) if check else matters
                judged = rows[judge]
                if len(judged):
                    images = x_k[judge]
                    with torch.no_grad():
                        margins = margin(model(images), labels[judge])
                    adversarial = margins > self.confidence
                    success[judged] |= adversarial
                    kept["l1"].offer(judged, images, l1[judge], adversarial)
                    kept["en"].offer(judged, images, en[judge], adversarial)

                # If the first step has not left x, no later one will: same gradient (of a deterministic
                # model), smaller step.
                stay = l1 > 0 if k == 0 else torch.ones_like(judge)
                if check:
                    loss = en + c * hinge(margins, self.confidence)
                    stay &= improved(loss, previous)
                    previous = loss
                if not stay.all():
                    rows, x_k, y_k, previous = rows[stay], x_k[stay], y_k[stay], previous[stay]
                    natural, labels, c = x[rows], y[rows], search.c[rows]
            search = search.after(success)
            if self.settled:
                going = ~success
                for old, nearest in zip(before, kept.values(), strict=True):
                    going |= self.gains(old, nearest.distance)
                searching = searching[going[searching]]
        return {rule: nearest.images for rule, nearest in kept.items()}

    def _hinge_gradient(self, model: nn.Module, images: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """The gradient of c · f at ``images`` (N, C, H, W)."""
        images = images.detach().requires_grad_()
        loss = c * hinge(margin(model(images), y), self.confidence)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        return gradient

    def pull(self, delta: Tensor) -> Tensor:
        return 2.0 * delta + self.beta / self.step_size * delta.sign()

    def _distances(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """What the rules make small, ‖δ‖₂² + β ‖δ‖₁ and ‖δ‖₁: (N, …) -> (N,), (N,)."""
        flat = delta.flatten(1)
        l1 = flat.abs().sum(1)
        return flat.square().sum(1) + self.beta * l1, l1


def shrink(moved: Tensor, x: Tensor, beta: float) -> Tensor:
    """Equation 5: pixels within ``beta`` of ``x`` return to ``x``; the others move ``beta`` towards it.

    The result is in [0, 1] if ``x`` is; every argument but ``beta`` is (N, C, H, W).
    """
    upper, lower = (moved - beta).clamp_max(1.0), (moved + beta).clamp_min(0.0)
    delta = moved - x
    return torch.where(delta > beta, upper, torch.where(delta < -beta, lower, x))
