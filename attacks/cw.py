"""Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644, the L2 attack of section VI.A."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustness_bench.attacks.constant_search import ConstantSearchAttack, Nearest, hinge, improved
from robustness_bench.attacks.numerics.adam import Adam
from robustness_bench.attacks.numerics.losses import margin
from robustness_bench.attacks.numerics.noise import Noise

_INSIDE = 0.999999  # of the authors' code: pixels of exactly 0 and 1 stay at finite w


@dataclass(frozen=True, kw_only=True)
class CW(ConstantSearchAttack):
    """Minimise ‖x' - x‖₂² + c · f(x') by Adam on w, where x' = (tanh(w) + 1) / 2 keeps the box.

    Args: those of ``ConstantSearchAttack``; ``step_size`` is Adam's learning rate, in units of w.

    Differs from the paper: as in the authors' code, the search for c has nine steps from 1e-3 and no
    restart. Their code ends a search step for a whole batch; here each sample ends it separately.
    """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        start, images, margins, search = self.begun(model, x, y, noise)
        nearest, searching = Nearest(x), torch.arange(len(x), device=x.device)
        nearest.offer(searching, images, _squared(images - x), margins > self.confidence)
        w_start = ((2.0 * start - 1.0) * _INSIDE).atanh()
        for _ in range(self.search_steps):
            success, before = torch.zeros_like(y, dtype=torch.bool), nearest.distance.sqrt()
            rows = searching  # the samples still in this search step
            natural, labels, c, descent = x[rows], y[rows], search.c[rows], Adam(w_start[rows])
            previous = torch.full_like(c, torch.inf)
            for step in range(self.steps):
                if not len(rows):
                    break
                w = descent.w.requires_grad_()
                x_adv = (w.tanh() + 1.0) / 2.0
                margins = margin(model(x_adv), labels)
                distance = _squared(x_adv - natural)
                loss = distance + c * hinge(margins, self.confidence)
                (gradient,) = torch.autograd.grad(loss.sum(), w)
                x_adv, margins = x_adv.detach(), margins.detach()
                distance, loss = distance.detach(), loss.detach()

                adversarial = margins > self.confidence
                success[rows] |= adversarial
                nearest.offer(rows, x_adv, distance, adversarial)

                descent.step(gradient, self.step_size)
                if self.checks_progress(step):
                    stay = improved(loss, previous)
                    previous = loss
                    if not stay.all():
                        descent.keep(stay)
                        rows, previous = rows[stay], previous[stay]
                        natural, labels, c = x[rows], y[rows], search.c[rows]
            search = search.after(success)
            going = ~success | self.gains(before, nearest.distance.sqrt())
            if self.settled:
                searching = searching[going[searching]]
        return nearest.images


def _squared(delta: Tensor) -> Tensor:
    """‖δ‖₂² of each perturbation: (N, …) -> (N,)."""
    return delta.square().flatten(1).sum(1)
