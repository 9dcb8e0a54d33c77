"""Models of what files say of themselves: the fields that are shown or computed with, whoever wrote them."""

import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from robustness_bench.benchmark.exchange.rules import WrongError
from robustness_bench.benchmark.files import short_hash
from robustness_bench.benchmark.models import Number, Strict, checked
from robustness_bench.benchmark.plan.detectors import ADAPTIVE, CALIBRATION
from robustness_bench.benchmark.plan.kinds import TaskKind, kinds_in
from robustness_bench.benchmark.store.flags import FLAGS

_EVERY_EPOCH = {"lr", "gradient_norm", "seconds", "images_per_second"}


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"has text that no terminal should print: {text[:80]!r}")
    return text


def _command(text: str) -> str:
    words = shlex.split(_printable(text))
    if words and (words[0] != "bench" or shlex.join(words) != text):
        raise ValueError(f"is no command line of bench: {text[:80]!r}")
    return text


def _epoch(values: dict[str, float]) -> dict[str, float]:
    if not values.keys() >= _EVERY_EPOCH:
        raise ValueError(f"is an epoch without {', '.join(sorted(_EVERY_EPOCH))}")
    return values


def _flag(name: str) -> str:
    if name not in FLAGS:
        raise ValueError("is a flag that bench does not know")
    return name


Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Shown = Annotated[str, AfterValidator(_printable)]
Tree = dict[str, Any]


class Parameters(Strict):
    """An attack's parameters; only those that tables show are read."""

    model_config = ConfigDict(extra="allow")

    beta: Size | None = None
    confidence: Size = 0.0


class Environment(Strict):
    """Where and how a result was made. A reader may copy the command into a shell, so it must be ours."""

    model_config = ConfigDict(extra="allow")

    command: Annotated[str, AfterValidator(_command)] = ""
    protocol: Annotated[str, Field(pattern="^([0-9a-f]{12})?$")] = ""


class Spec(Strict):
    """The settings of any kind of task; settings that only some kinds have are optional."""

    model_config = ConfigDict(extra="allow")

    kind: str
    dataset: str
    data: Sha256
    parents: dict[str, str]
    norm: Literal["linf", "l2"] = "linf"
    threat: Literal["white", "black"] = "white"
    defense: str | Tree = ""
    """A preset, in a training."""
    attack: str = ""
    kind_of_attack: str = ""
    objective: str = ""
    system: str = ""
    setting: str = ""
    rule: str = ""
    classifier: str = ""
    reformer: str = ""
    eps: Size = 0.0
    confidence: Size = 0.0
    parameters: Parameters = Parameters()
    detectors: dict[Shown, Tree] = Field(default={})
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    images: Annotated[int, Field(ge=0)] = 0
    gates: dict[str, Number] = Field(default={})

    @model_validator(mode="after")
    def _consistent(self) -> "Spec":
        if lost := [name for name in self.detectors if f"{CALIBRATION}{name}" not in self.parents]:
            raise ValueError(f"has no calibration of {lost[0]} among its parents")
        if self.kind == "detect":
            fits = {
                "natural": self.attack == "none" and self.confidence == 0,
                "oblivious": self.attack not in ("none", ADAPTIVE),
                **dict.fromkeys(("white", "grey"), self.attack == ADAPTIVE),
            }
            if not fits.get(self.setting) or ("crafted" in self.parents) != (self.setting != "natural"):
                raise ValueError(f"has the attack {self.attack!r} in the setting {self.setting!r}")
        return self


class Story(Strict):
    """What a result of any kind says besides its rows or tensors; what only some kinds say is optional."""

    model_config = ConfigDict(extra="allow")

    id: str
    seed: Annotated[int, Field(ge=0)]
    spec: Spec
    environment: Environment
    seconds: Size
    family: str = ""
    model_family: str = ""
    status: Literal["ok", "error"] = "ok"
    error: str = ""
    thresholds: dict[str, Finite] = Field(default={})
    remarks: dict[str, Shown] = Field(default={})
    sha256: Sha256 = "0" * 64
    history: list[Annotated[dict[str, Number], AfterValidator(_epoch)]] = Field(default=[])
    epoch: Size | None = None
    flags: list[Annotated[str, AfterValidator(_flag)]] = Field(default=[])
    threshold: Finite = 0.0
    near: Finite = 0.0
    remark: str = ""

    @model_validator(mode="after")
    def _kept(self) -> "Story":
        if self.history and self.epoch is None:
            raise ValueError("has a history without the epoch that was kept")
        return self


def kind_of(spec: Any, folder: str) -> TaskKind:
    """Return the kind of the task that made a file of ``folder``."""
    kinds = kinds_in(folder)
    if not isinstance(spec, dict) or not isinstance(spec["kind"], str) or spec["kind"] not in kinds:
        raise WrongError(f"is no {' or '.join(kinds)}")
    return kinds[spec["kind"]]


def told(values: Mapping[str, Any], folder: str, *needed: str) -> Story:
    """Return what a file of ``folder`` says, checked: its fields, and that its settings give its id.

    Args:
        needed: what its settings must have besides what all have.

    Raises:
        WrongError: naming the field.
    """
    kind_of(values["spec"], folder)
    story = checked(Story, values, lambda loc: "is invalid: ", WrongError)
    if lacking := [key for key in needed if key not in values["spec"]]:
        raise WrongError(f"lacks {lacking[0]} in its settings")
    found = short_hash([values["spec"], values["seed"]])
    if values["id"] != found:
        raise WrongError(f"has the id {values['id']!r}, its settings give {found}")
    return story
