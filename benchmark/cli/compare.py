"""`bench compare`: two defenses on the same images, and what their difference allows one to claim."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustness_bench.benchmark.cli.shared.labelled import Json
from robustness_bench.benchmark.cli.shared.options import Request, split, takes_request
from robustness_bench.benchmark.cli.shared.remedy import command_line
from robustness_bench.benchmark.errors import BenchError, check_known, unknown

if TYPE_CHECKING:
    from robustness_bench.benchmark.plan.protocol import Protocol
    from robustness_bench.benchmark.report.lines.compare import Comparison, Pair


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A requested comparison, and the defenses that lack the results for it."""

    dataset: str
    pair: "Pair"
    attack: str
    lacking: list[str]


@takes_request
def compare(
    request: Request,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A defense (bench list defenses).")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The defense to compare it with.")],
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write them to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two defenses from stored results; trains and attacks nothing.

    Same images, attack and ε, per norm and threat: both accuracies, their difference with its interval,
    McNemar's test per seed, how many epochs each side trained on natural and on adversarial images,
    and what may be claimed. --attack names the attacks, or worst-case (the images that withstand all
    bounded attacks); without it, all attacks that both defenses have faced. --seeds N uses only the first
    N seeds; without it, every seed in the store.
    """
    from robustness_bench.benchmark.files import write_atomic
    from robustness_bench.benchmark.report.lines.compare import compare
    from robustness_bench.benchmark.report.tables.comparison import to_csv

    protocol = _protocol(request, first, second)
    wanted = _wanted(request, protocol, first, second)
    whole = [each for each in wanted if not each.lacking]
    found = [compare(each.pair, each.attack, among=len(whole)) for each in whole]
    if found and csv is not None:
        write_atomic(csv, to_csv(found).encode())
    if found:
        _say(found, as_json=as_json)
    if len(whole) < len(wanted):
        raise BenchError(_remedy(request, protocol, [each for each in wanted if each.lacking]))


def _protocol(request: Request, first: str, second: str) -> "Protocol":
    """Return the requested settings; BenchError for an unknown name, or not two defenses."""
    from robustness_bench.attacks.registry import SETS, attack_names, attack_preset
    from robustness_bench.benchmark.report.lines.worst_case import NAME
    from robustness_bench.defenses.registry import defense_presets

    if request.defense:
        raise BenchError("compare takes its two defenses without --defense: bench compare FIRST SECOND")
    if request.weights:
        raise BenchError("--weights is one model: compare takes two defenses that this store has trained")
    asked = split(request.attacks or [])
    for name in asked:
        if name != NAME and not any(attack_preset(name, each) for each in SETS):
            raise unknown("attack", name, [*attack_names(), NAME])
    protocol = replace(request, attacks=[name for name in asked if name != NAME]).protocol()
    check_known("defense", (first, second), defense_presets())
    if first == second:
        raise BenchError(f"{first} cannot be compared with itself: name another defense")
    return protocol


def _wanted(request: Request, protocol: "Protocol", first: str, second: str) -> list[Wanted]:
    """Return every requested norm and threat; by default those in which both defenses have results."""
    seeds = range(request.seeds or 0)
    pairs = _pairs(request, protocol, first, second)
    tried = [(dataset, pair) for dataset, pair in pairs if pair.first.records and pair.second.records]
    named = request.norm or request.threat
    wanted, seen = [], set()
    for dataset, pair in pairs if named or not tried else tried:
        for attack in _attacks(request, pair):
            place = (dataset, pair.where.norm, attack)
            lacking = pair.lacking(attack, seeds)
            if attack == "none" and not lacking and place in seen:
                continue  # natural accuracy: the black box would only repeat it
            seen.add(place)
            wanted.append(Wanted(dataset=dataset, pair=pair, attack=attack, lacking=lacking))
    return wanted


def _pairs(request: Request, protocol: "Protocol", first: str, second: str) -> "list[tuple[str, Pair]]":
    """Return the data set's name and both defenses, for each of its threat models."""
    from robustness_bench.benchmark.data import locate
    from robustness_bench.benchmark.report.lines.compare import Where, pair_of
    from robustness_bench.benchmark.report.lines.selection import fitting
    from robustness_bench.benchmark.report.lines.trained import trainings
    from robustness_bench.benchmark.store.cells import find_records, read_record

    by_id = {record.id: record for record in map(read_record, find_records(request.out))}
    epochs = trainings(request.out)
    pairs = []
    for settings in protocol.settings:
        data = locate(settings.dataset, request.data_dir, download=request.download, fit=settings.fit)
        records = fitting(settings, {settings.dataset: data}, by_id)
        for norm in protocol.norms:
            for threat in protocol.threats:
                where = Where(dataset=data.label, norm=norm, eps=settings.eps[norm], threat=threat)
                pair = pair_of(where, first, second, records, range(request.seeds or 0), epochs)
                pairs.append((settings.dataset, pair))
    return pairs


def _attacks(request: Request, pair: "Pair") -> list[str]:
    """Return the named attacks that support the norm; by default all that both faced, or natural accuracy."""
    from robustness_bench.attacks.registry import SETS, attack_preset
    from robustness_bench.benchmark.report.lines.worst_case import NAME

    if not request.attacks:
        return pair.common() or ["none"]
    asked = dict.fromkeys(split(request.attacks))
    presets = [preset for name in asked for each in SETS if (preset := attack_preset(name, each))]
    fitting = {preset.name for preset in presets if pair.where.norm in preset.norms} | {NAME}
    return [name for name in asked if name in fitting]


def _say(found: "Sequence[Comparison]", *, as_json: bool) -> None:
    from robustness_bench.benchmark.report.rendering.formats import to_text
    from robustness_bench.benchmark.report.tables.comparison import cautions, to_dict, to_table

    if as_json:
        told = {"comparisons": [to_dict(each) for each in found], "cautions": cautions(found)}
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for each in found:
        print(to_text(to_table(each)))
        print(f"{each.claim}.\n")
    for note in cautions(found):
        print(textwrap.fill(note, 100))


def _remedy(request: Request, protocol: "Protocol", gaps: Sequence[Wanted]) -> str:
    """Say which results are missing, and one command that runs them all (it skips existing ones)."""
    from robustness_bench.benchmark.report.lines.worst_case import NAME

    lacks = []
    for each in gaps:
        where = each.pair.where
        attack = f" × {each.attack}" if request.attacks else ""
        lacks.append(f"{' and '.join(each.lacking)}{attack} ({where.dataset} {where.norm} {where.threat})")
    cells: dict[str, Iterable[object]] = {
        "--defense": (name for each in gaps for name in each.lacking),
        "--dataset": (each.dataset for each in gaps),
        "--norm": (each.pair.where.norm for each in gaps),
        "--threat": (each.pair.where.threat for each in gaps),
        "--seeds": [request.seeds or protocol.seeds],
    }
    if request.attacks and all(each.attack != NAME for each in gaps):
        cells["--attacks"] = (each.attack for each in gaps)
    command = command_line(request, "run", cells)
    return f"no results under these settings for {'; '.join(lacks)}: run {command}"
