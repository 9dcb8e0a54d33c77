"""A model as a repository of the hub: weights, config.json, model card, and its results."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustness_bench.benchmark.data.registry import DATASETS
from robustness_bench.benchmark.errors import BenchError
from robustness_bench.benchmark.exchange.hub.cells import Value, told
from robustness_bench.benchmark.files import write_atomic, write_json
from robustness_bench.benchmark.networks.hub import CONFIG, KEY, WEIGHTS
from robustness_bench.benchmark.parts import part
from robustness_bench.benchmark.plan.protocol import ZOOS
from robustness_bench.benchmark.plan.tasks import OWN
from robustness_bench.benchmark.report.lines.results import particulars
from robustness_bench.benchmark.report.rendering.formats import to_markdown
from robustness_bench.benchmark.report.rendering.table import Table, plain_table
from robustness_bench.benchmark.report.rendering.wording import budget
from robustness_bench.benchmark.statistics import wilson
from robustness_bench.benchmark.store.cards import Card, verify
from robustness_bench.benchmark.store.cells import Record

RESULTS = ".eval_results/robustness-bench.yaml"
_WHAT = "bench export --hf"


def exportable(card: Card) -> str:
    """Return why a model cannot be exported; nothing if it can."""
    model = card["spec"]["model"]
    if model == OWN or model.startswith(ZOOS):
        return "its network is code that came with the weights: publish it from where it came"
    if card.get("reading", {}).get("stem"):
        return f"its network runs with another stem ({card['reading']['name']}), which a file cannot say"
    return ""


def write_model(
    folder: Path,
    checkpoint: Path,
    card: Card,
    records: Sequence[Record],
    found: Sequence[Value],
    benchmark: str,
) -> None:
    """Write the repository of a model.

    Args:
        records: of its seed.
        found: what it reached.
        benchmark: id of the hub's data set with the records, whose ``eval.yaml`` has the tasks.

    Raises:
        StoreError: the weights are damaged.
        BenchError: huggingface_hub is not installed.
    """
    verify(checkpoint)
    write_atomic(folder / WEIGHTS, checkpoint.read_bytes())
    write_json(folder / CONFIG, _config(card, records), for_people=True)
    write_atomic(folder / RESULTS, _results(found, benchmark).encode())
    write_atomic(folder / "README.md", _card(folder.name, card, records, found, benchmark).encode())


def _config(card: Card, records: Sequence[Record]) -> dict[str, Any]:
    spec, of = card["spec"], records[0].spec
    facts = {"model": spec["model"], "width": spec["width"], "recipe": spec}
    facts |= {key: of[key] for key in ("dataset", "norm", "eps", "defense")} | {"seed": card["seed"]}
    known = DATASETS.get(of["dataset"])
    labels = {"id2label": {str(i): name for i, name in enumerate(known.classes)}} if known else {}
    return {"architectures": [spec["model"]], **labels, KEY: facts}


def _results(found: Sequence[Value], benchmark: str) -> str:
    """Return the hub's evaluation results, https://huggingface.co/docs/hub/eval-results."""
    hub, yaml = part("hub", "huggingface_hub", _WHAT), part("hub", "yaml", _WHAT)
    entries = [
        hub.EvalResultEntry(
            dataset_id=benchmark,
            task_id=each.task,
            value=round(each.accuracy, 2),
            date=each.date or None,
            source_url=f"https://huggingface.co/datasets/{benchmark}",
            source_name="Records: one row per image",
            notes=told(each.line),
        )
        for each in found
    ]
    text: str = yaml.safe_dump(hub.eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return text


def _card(name: str, card: Card, records: Sequence[Record], found: Sequence[Value], benchmark: str) -> str:
    hub, spec, of = part("hub", "huggingface_hub", _WHAT), card["spec"], records[0].spec
    front = hub.ModelCardData(
        pipeline_tag="image-classification",
        datasets=[benchmark],
        tags=["adversarial-robustness", "robustness-bench", of["defense"], of["dataset"]],
    )
    network = f"{spec['model']} of width {spec['width']}"
    use = f"bench run --defense {of['defense']} --dataset {of['dataset']} --weights hf:ORG/{name}"
    return (
        "\n\n".join(
            [
                f"---\n{front.to_yaml()}\n---",
                f"# {name}",
                f"{network}, defense `{of['defense']}`, data set {of['dataset']}, seed {card['seed']}. "
                "Images in [0, 1]; the first layer normalises them by the mean and deviation in the file.",
                to_markdown(_table(name, found)).strip(),
                f"## Made by\n\n```console\n{_command(card)}\n```",
                f"## Use\n\n```console\n$ {use}\n```",
            ]
        )
        + "\n"
    )


def _command(card: Card) -> str:
    command = card["environment"].get("command", "")
    return (
        f"$ {command}" if command else f"# the store has no command; {CONFIG} has the recipe of this training"
    )


def _table(name: str, found: Sequence[Value]) -> Table:
    """Return a row per task, with the interval that the choice of images leaves."""
    rows = []
    for each in found:
        line = each.line
        interval = wilson(each.accuracy / 100 * line.images, line.images)
        place = ("natural",) * 3 if line.attack == "none" else (line.threat, line.norm, budget(line.eps))
        texts = [
            *place[1:],
            ", ".join([line.attack, *particulars(line)]),
            f"{each.accuracy:.1f}",
            f"{interval.low * 100:.1f} – {interval.high * 100:.1f}",
        ]
        rows.append((place[0], [*texts, str(line.images)]))
    heads = ("norm", "ε", "attack", "accuracy, %", "95 % interval", "images")
    table = plain_table(
        name=name,
        title="Accuracy",
        caption="On test images. worst-case: withstood every bounded attack that it faced, image by image.",
        measure="accuracy",
        heads=[("", head) for head in heads],
        rows=rows,
    )
    return replace(table, heading="Threat")


def folder_name(card: Card, records: Sequence[Record]) -> str:
    """Return the name of a model's folder, fit for a repository."""
    of, spec = records[0].spec, card["spec"]
    norm = f"-{spec['norm']}" if "norm" in spec else ""
    name = f"{of['dataset']}-{of['defense']}-{spec['model']}{norm}-seed{card['seed']}-{card['id'][:6]}"
    if len(name) > 96:
        raise BenchError(
            f"{name} is longer than the 96 characters of a repository's name: shorten the defense's name"
        )
    return name
