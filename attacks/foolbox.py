"""DDN from the package ``foolbox`` (Rauber et al. 2020, https://doi.org/10.21105/joss.02607)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from robustness_bench.attacks.base import MinimumNormAttack
from robustness_bench.attacks.numerics.geometry import Norm
from robustness_bench.attacks.numerics.losses import margin, temperature
from robustness_bench.attacks.numerics.noise import Noise, NoiseOfSamples

_LEAD = 8.0  # the true class's largest lead in logits: its probability then still keeps ten bits


@dataclass(frozen=True, kw_only=True)
class DDN(MinimumNormAttack):
    """Rony et al. 2019, https://arxiv.org/abs/1811.09600, algorithm 1: decoupled direction and norm.

    Our base class judges what foolbox found; foolbox's own judgement is not used.

    Args:
        loss: "log-odds" (the direction of the paper's cross-entropy, at any scale of the logits) or "ce"
            (that itself).
        steps: gradient steps.
        gamma: relative change of the radius per step.
        initial_norm: first radius, in pixel units.

    Differs from the paper: images are not rounded to levels; a vanishing gradient is replaced by the
    sample's own noise.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    norm: Norm = "l2"
    loss: Literal["log-odds", "ce"] = "log-odds"
    steps: int = 100
    gamma: float = 0.05
    initial_norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("log-odds", "ce"):
            raise ValueError(f"loss must be log-odds or ce, got {self.loss!r}")

    def passes(self, classes: int) -> tuple[int, int]:
        return self.steps, self.steps

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        import foolbox

        seen = _AtAnyScale(model, y) if self.loss == "log-odds" else model
        wrapped = foolbox.PyTorchModel(seen.eval(), bounds=(0.0, 1.0), device=x.device)
        attack = foolbox.attacks.DDNAttack(init_epsilon=self.initial_norm, steps=self.steps, gamma=self.gamma)
        with NoiseOfSamples(noise):
            found: Tensor = attack.run(wrapped, x, foolbox.criteria.Misclassification(y))
        return found.detach()


class _AtAnyScale(nn.Module):
    """The model of N samples with logits whose cross-entropy has a gradient in float32 everywhere.

    The gradient has the direction of the ``log_odds`` gradient, and the predicted class is the model's.
    """

    def __init__(self, model: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.model, self.y = model, y

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        wide = logits.detach()
        # Subtract the largest logit; otherwise rounding could make two classes equal.
        logits = (logits - wide.amax(1, keepdim=True)) / temperature(wide, self.y)[:, None]
        lead = -margin(logits.detach(), self.y)
        cut = lead.clamp_max(_LEAD) - lead  # detached, so the gradient keeps its direction
        cut_logits: Tensor = logits.scatter_add(1, self.y[:, None], cut[:, None])
        return cut_logits
