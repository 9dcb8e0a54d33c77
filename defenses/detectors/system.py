"""A classifier guarded by a union of detectors, with a reformer in front of it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustness_bench.attacks.adaptive import Guarded
from robustness_bench.defenses.detectors.base import Detector
from robustness_bench.defenses.detectors.view import DetectorError, Networks, View

_QUIET = -1e6  # lower bound of the excess: "literal" falls to -1e150, which overflows in float32 gradients


class Judged(NamedTuple):
    """A system's verdict on each of N images."""

    scores: dict[str, Tensor]
    """Detector -> (N,) float64."""
    flags: dict[str, Tensor]
    """Detector -> (N,) bool."""
    logits: Tensor
    """(N, K), of the images themselves."""
    reformed: Tensor
    """(N, K), of the reformed images; ``logits`` without a reformer."""

    @property
    def flagged(self) -> Tensor:
        """Whether any detector flags each image: (N,) bool."""
        none = torch.zeros(len(self.logits), dtype=torch.bool, device=self.logits.device)
        return torch.stack([none, *self.flags.values()]).any(0)


class System(Guarded):
    """Flags an image if any detector's score reaches its threshold; otherwise reforms and classifies it.

    ``excess`` called right after ``surfaces``, or after ``forward`` without gradients, on the same tensor
    object reuses their passes: compute one gradient of both together.

    Args:
        networks: put into evaluation mode.
        thresholds, scales: one for each detector, finite; scales above 0, and needed only by ``excess``.
        reformer: the auto-encoder that images pass through before they are classified.

    Raises:
        DetectorError: the above does not hold, or a part is missing; in use, scores or logits are not
            finite.
    """

    def __init__(
        self,
        networks: Networks,
        detectors: Mapping[str, Detector],
        thresholds: Mapping[str, float],
        reformer: str | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        _check_numbers("threshold", thresholds, detectors, above=-math.inf)
        if scales is not None:
            _check_numbers("scale", scales, detectors, above=0.0)
        self.networks = networks
        self.detectors = dict(detectors)
        self.thresholds = dict(thresholds)
        self.reformer = reformer or None
        self.scales = None if scales is None else dict(scales)
        self._kept: tuple[View, tuple[int, bool, bool]] | None = None
        named = [part for detector in detectors.values() for part in detector.parts]
        used = {name: networks.part(name) for name in dict.fromkeys([*self._reformers, *named])}
        self.classifier, self.parts = networks.classifier, nn.ModuleDict(used)
        self.eval()

    @torch.no_grad()
    def judge(self, x: Tensor) -> Judged:
        """Judge images (N, C, H, W); every network runs once on each image that needs it."""
        view = View(x, self.networks)
        scores = score_all(self.detectors, view)
        flags = {name: score >= self.thresholds[name] for name, score in scores.items()}
        return Judged(scores, flags, _finite("logits", view.logits), _finite("logits", self._reformed(view)))

    def forward(self, x: Tensor) -> Tensor:
        view = View(x, self.networks)
        logits = self._reformed(view)
        if not torch.is_grad_enabled():
            self._keep(view)
        return logits

    def surfaces(self, x: Tensor, target: Tensor) -> list[Tensor]:
        view = View(x, self.networks)
        self._keep(view)
        every = self.detectors.values()
        rebuilt = dict.fromkeys([*self._reformers, *(part for one in every for part in one.rebuilt_by)])
        generated = dict.fromkeys(part for one in every for part in one.generated_by)
        return [
            view.logits,
            *(view.rebuilt_logits(part) for part in rebuilt),
            *(view.generated_logits(part, target) for part in generated),
        ]

    def excess(self, x: Tensor) -> Tensor:
        """Return (score - threshold) / scale, (N, D) float64: flagged exactly where >= 0, at least -1e6."""
        if self.scales is None:
            raise DetectorError("this system has no scales; build it with one for each detector")
        scores = score_all(self.detectors, self._take(x))
        columns = [(score - self.thresholds[name]) / self.scales[name] for name, score in scores.items()]
        if not columns:
            return x.new_zeros((len(x), 0), dtype=torch.float64)
        return torch.stack(columns, 1).clamp_min(_QUIET)

    @property
    def _reformers(self) -> tuple[str, ...]:
        return (self.reformer,) if self.reformer else ()

    def _reformed(self, view: View) -> Tensor:
        return view.rebuilt_logits(self.reformer) if self.reformer else view.logits

    def _keep(self, view: View) -> None:
        self._kept = (view, _state(view.x))

    def _take(self, x: Tensor) -> View:
        """Return the kept view, at most once and only if this same tensor is unchanged; else a new view."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[0].x is x and kept[1] == _state(x):
            return kept[0]
        return View(x, self.networks)


def score_all(detectors: Mapping[str, Detector], view: View) -> dict[str, Tensor]:
    """Compute every detector's scores (N,) float64 on one view.

    Raises:
        DetectorError: a score is NaN, which would compare false, or infinite.
    """
    return {
        name: _finite(f"scores of {name!r}", detector.score(view)) for name, detector in detectors.items()
    }


def _finite(what: str, values: Tensor) -> Tensor:
    if odd := values.numel() - int(values.isfinite().sum()):
        raise DetectorError(f"{odd} of {values.numel()} {what} are NaN or infinite; check the networks")
    return values


def _check_numbers(
    kind: str, given: Mapping[str, float], wanted: Mapping[str, Detector], above: float
) -> None:
    if given.keys() != wanted.keys():
        names, detectors = ", ".join(given) or "no detector", ", ".join(wanted) or "none"
        raise DetectorError(f"{kind}s are given for {names}; give one for each of: {detectors}")
    for name, value in given.items():
        if not above < value < math.inf:
            raise DetectorError(f"the {kind} of {name!r} must be above {above} and finite, got {value}")


def _state(x: Tensor) -> tuple[int, bool, bool]:
    """Return what a view of ``x`` depends on besides the tensor object; inference mode counts no changes."""
    version = -1 if x.is_inference() else x._version
    return version, x.requires_grad, torch.is_grad_enabled()
