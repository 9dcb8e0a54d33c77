"""TensorBoard, Weights & Biases, MLflow and Trackio; each is imported when a run asks for it."""

import re
from collections.abc import Mapping
from typing import Any

from robustness_bench.benchmark.parts import part
from robustness_bench.benchmark.run.watching.contract import About, Options, Tracker

_PROJECT = "robustness-bench"
_NOT_OF_MLFLOW = re.compile(r"[^\w.\-/ ]")


def _flat(group: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items()}


class TensorBoard(Tracker):
    """Event files in the option dir, by default OUT/tensorboard."""

    options = ("dir",)

    def __init__(self, about: About, options: Options) -> None:
        part("tensorboard", "tensorboard", "--tracker tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(options.get("dir", str(about.out / "tensorboard")))
        self._writer.add_text("command", about.command)

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in _flat(group, values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """A run of Weights & Biases; WANDB_MODE and its other variables hold."""

    options = ("project", "entity", "mode", "dir")

    def __init__(self, about: About, options: Options) -> None:
        wandb = part("wandb", "wandb", "--tracker wandb")
        settings = {"project": _PROJECT, "name": about.name, "dir": str(about.out), **options}
        self._run: Any = wandb.init(config={"command": about.command}, reinit="create_new", **settings)
        self._groups: set[str] = set()

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        if group not in self._groups:  # steps of one training, of which many run side by side
            self._groups.add(group)
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        self._run.log({**_flat(group, values), f"{group}/step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow(Tracker):
    """A run of MLflow, at the option uri or where MLFLOW_TRACKING_URI says."""

    options = ("uri", "experiment")

    def __init__(self, about: About, options: Options) -> None:
        mlflow = part("mlflow", "mlflow", "--tracker mlflow")
        self._client: Any = mlflow.MlflowClient(tracking_uri=options.get("uri"))
        name = options.get("experiment", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        identity = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(identity, run_name=about.name, tags={"command": about.command})
        self._id: str = run.info.run_id

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in _flat(group, values).items():
            self._client.log_metric(self._id, _NOT_OF_MLFLOW.sub("-", name), value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio(Tracker):
    """A run of Trackio, in its local database; TRACKIO_DIR says where."""

    options = ("project", "space")

    def __init__(self, about: About, options: Options) -> None:
        trackio = part("trackio", "trackio", "--tracker trackio")
        self._run: Any = trackio.init(
            project=options.get("project", _PROJECT),
            name=about.name,
            space_id=options.get("space"),
            config={"command": about.command},
            resume="allow",
            embed=False,
        )

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._run.log({**_flat(group, values), f"{group}/step": step})

    def close(self) -> None:
        self._run.finish()


OWN: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}
