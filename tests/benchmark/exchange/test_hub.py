"""Weights from the Hugging Face hub's cache, and results as folders for it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bench

hub = pytest.importorskip("huggingface_hub", reason="needs the extra hub")
yaml = pytest.importorskip("yaml", reason="needs the extra hub")

SMALL = [
    *("--defense", "undefended", "--norm", "linf", "--threat", "white", "--epochs", 1, "--train-limit", 256),
    *("--n-examples", 8, "--no-diagnosis", "--workers", 1),
]
BENCHMARK, COMMIT = "someone/robustness-records", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def store(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "store"
    said = bench("run", *SMALL, "--width", 2, "--attacks", "none,pgd-40", "--out", out)
    assert said.status == 0, said.err
    return out


@pytest.fixture(scope="module")
def exported(bench: Bench, store: Path) -> Path:
    folder = store.parent / "exported"
    said = bench("export", store, "--hf", folder, "--benchmark", BENCHMARK)
    assert said.status == 0, said.err
    return folder


@pytest.fixture(scope="module")
def model(exported: Path) -> Path:
    (folder,) = exported.glob("digits-undefended-*")
    return folder


@pytest.fixture
def cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with the exported model in it, as huggingface_hub lays it out, and no network."""
    home = tmp_path / "models--someone--small"
    (home / "blobs").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for number, name in enumerate(("model.safetensors", "config.json")):
        blob = home / "blobs" / f"{number:064x}"
        shutil.copyfile(model / name, blob)
        (snapshot / name).symlink_to(blob)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def _accuracies(out: Path) -> dict[str, Any]:
    from robustness_bench.benchmark.store.cells import read_records

    return {r.spec["attack"]: r.rows["adversarial_prediction"].tolist() for r in read_records(out)}


def _logits(out: Path) -> Any:
    """The logits of a store's only model of digits on some test images."""
    import torch
    from safetensors.torch import load_file

    from robustness_bench.benchmark.data import DATASETS, locate
    from robustness_bench.benchmark.networks import build_model

    network = build_model("resnet-18", DATASETS["digits"].info, 2).eval()
    (checkpoint,) = out.glob("checkpoints/digits/*.safetensors")
    network.load_state_dict(load_file(checkpoint))
    with torch.no_grad():
        return network(torch.from_numpy(locate("digits", Path()).load().test_x[:8].copy()).float() / 255)


def test_an_exported_folder_is_a_source_of_weights_again(
    bench: Bench, store: Path, model: Path, cache: Path, tmp_path: Path
) -> None:
    """From disk and from the hub's cache: width and normalisation come along, the logits are the same."""
    run = ["run", *SMALL, "--attacks", "none,pgd-40", "--weights-accept-low"]
    for number, (source, origin) in enumerate(
        {str(model): str(model), "hf:someone/small": f"hf:someone/small@{COMMIT}:model.safetensors"}.items()
    ):
        out = tmp_path / f"again-{number}"
        said = bench(*run, "--weights", source, "--out", out)
        assert said.status == 0, said.err
        assert (_logits(out) == _logits(store)).all()
        assert _accuracies(out) == _accuracies(store)
        (card,) = out.glob("checkpoints/digits/*.json")
        assert json.loads(card.read_text())["source"] == origin


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf:nobody", "must be hf:ORG/NAME"),
        ("hf:someone/else", "is not in the hub's cache, and the hub is out of reach"),
        ("hf:someone/small@v2", "is not in the hub's cache"),
        ("hf:someone/small:other.pt", "is not in the hub's cache"),
    ],
)
def test_what_the_hub_does_not_have(
    bench: Bench, cache: Path, tmp_path: Path, source: str, said: str
) -> None:
    found = bench("run", *SMALL, "--weights", source, "--out", tmp_path / "r")
    assert found.status == 2
    assert said in found.err
    assert len(found.err.splitlines()) == 1


def test_evaluation_results_and_card(store: Path, exported: Path, model: Path) -> None:
    """The hub's own parser reads them; every task is one of the data set's eval.yaml."""
    from robustness_bench.benchmark.store.cells import read_records

    (file,) = model.glob(".eval_results/*.yaml")
    entries = {each.task_id: each for each in hub.parse_eval_result_entries(yaml.safe_load(file.read_text()))}
    tasks = yaml.safe_load((exported / "records" / "eval.yaml").read_text())["tasks"]
    assert {each["id"] for each in tasks} == entries.keys()
    stored = {record.spec["attack"]: 100 * record.robust.mean() for record in read_records(store)}
    assert entries["digits-natural-8"].value == round(stored["none"], 2)
    attacked = entries["digits-white-linf-0.18-pgd-40-8"]
    assert (
        attacked.value == entries["digits-white-linf-0.18-worst-case-8"].value == round(stored["pgd-40"], 2)
    )
    assert attacked.dataset_id == BENCHMARK
    assert attacked.source_url == f"https://huggingface.co/datasets/{BENCHMARK}"
    assert attacked.date.startswith("20")
    card = hub.ModelCard.load(model / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert "$ bench run --defense undefended" in card.text
    assert f"| pgd-40 | {stored['pgd-40']:.1f} |" in card.text


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # rdflib's, below mlcroissant
def test_records_as_a_data_set(store: Path, exported: Path) -> None:
    """mlcroissant validates the file and reads the rows that it describes."""
    croissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant")
    from robustness_bench.benchmark.store.cells import read_records

    data = croissant.Dataset(jsonld=exported / "records" / "croissant.json")
    assert not data.metadata.ctx.issues.errors
    rows = list(data.records("records"))
    records = {record.id: record for record in read_records(store)}
    assert len(rows) == sum(len(record.rows["sample"]) for record in records.values())
    for record in records.values():
        robust = [row["records/robust"] for row in rows if row["records/record"] == record.id.encode()]
        assert robust == record.robust.tolist()
    front = hub.DatasetCard.load(exported / "records" / "README.md").data
    assert (exported / "records" / front.configs[0]["data_files"][0]["path"]).is_file()


def test_what_cannot_be_exported(bench: Bench, store: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (["--hf", tmp_path / "a"], "--benchmark must be ORG/NAME"),
        (
            ["--hf", tmp_path / "a", "--benchmark", BENCHMARK, "--defense", "namid"],
            "unknown defense in this store",
        ),
        ([tmp_path / "a.zip", "--benchmark", BENCHMARK], "are for bench export --hf DIR"),
    ):
        found = bench("export", store, *arguments)
        assert found.status == 2
        assert said in found.err
    bare = tmp_path / "bare"
    shutil.copytree(store, bare)
    next(bare.glob("checkpoints/digits/*.safetensors")).unlink()
    found = bench("export", bare, "--hf", tmp_path / "b", "--benchmark", BENCHMARK)
    assert "left out: digits undefended, seed 0" in found.out
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["records"]
