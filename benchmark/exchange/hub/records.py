"""The records as a data set of the hub: one Parquet file, a data card, a Croissant file, and the tasks.

Croissant 1.0: https://docs.mlcommons.org/croissant/docs/croissant-spec.html. ``eval.yaml``, which makes the
data set a benchmark of the hub: https://huggingface.co/docs/hub/eval-results.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustness_bench.benchmark.exchange.hub.cells import Value, columns
from robustness_bench.benchmark.files import file_hash, write_atomic, write_json
from robustness_bench.benchmark.parts import part
from robustness_bench.benchmark.store.cells import Record

TABLE, CROISSANT, TASKS = "data/records.parquet", "croissant.json", "eval.yaml"
_WHAT = "bench export --hf"
_NAME = "Adversarial robustness, image by image"
_SUMMARY = (
    "Outcomes of adversarial attacks on image classifiers, recorded by robustness-bench: a row per attacked "
    "test image, model and attack."
)
_MEANING = {
    "record": "id of the cell: a hash of all that decides its outcome",
    "dataset": "the attacked images' data set",
    "norm": "norm of the threat model: linf or l2",
    "threat": "white: crafted on the model itself; black: on a surrogate",
    "defense": "how the model was trained",
    "attack": "the attack; none: the natural image",
    "surrogates": "the models whose mean logits it was crafted on, if several",
    "precision": "of the attack's gradients, float32 or bf16",
    "eps": "budget, in pixels of [0, 1]",
    "seed": "training seed",
    "sample": "index of the image in the test set",
    "label": "its class",
    "clean_prediction": "predicted class of the natural image",
    "adversarial_prediction": "predicted class of the attacked image",
    "linf": "L∞ distance of the two",
    "l2": "L2 distance of the two",
    "l1": "L1 distance of the two",
    "forwards": "forward passes per image, mean over its batch",
    "backwards": "backward passes per image, mean over its batch",
    "robust": "whether no image within the budget fooled the model, the natural one included",
}
_KINDS = {
    pa.string(): "sc:Text",
    pa.float64(): "sc:Float",
    pa.int64(): "sc:Integer",
    pa.bool_(): "sc:Boolean",
}
_TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet"),
    *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
    "transform",
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
}
"""The terms that the specification wants in every file."""


def write_records(folder: Path, records: Sequence[Record], found: Sequence[Value], benchmark: str) -> int:
    """Write the repository of a data set with all outcomes, and return the number of its rows.

    Args:
        found: what the models reached, from which come the tasks.
        benchmark: the id that it gets on the hub.
    """
    table = pa.table(columns(records))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(folder / TABLE, buffer.getvalue())
    write_json(folder / CROISSANT, _croissant(folder / TABLE, table.schema, benchmark), for_people=True)
    write_atomic(folder / TASKS, _tasks(found).encode())
    write_atomic(folder / "README.md", _card(table.num_rows).encode())
    return int(table.num_rows)


def _croissant(file: Path, schema: pa.Schema, benchmark: str) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"records/{each.name}",
            "name": each.name,
            "description": _MEANING[each.name],
            "dataType": _KINDS[each.type],
            "source": {"fileObject": {"@id": "table"}, "extract": {"column": each.name}},
        }
        for each in schema
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": benchmark.partition("/")[2],
        "description": _SUMMARY,
        "url": f"https://huggingface.co/datasets/{benchmark}",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "table",
                "name": "table",
                "contentUrl": TABLE,
                "encodingFormat": "application/x-parquet",
                "sha256": file_hash(file),
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "records", "name": "records", "field": fields}],
    }


def _tasks(found: Sequence[Value]) -> str:
    tasks = [
        {"id": each, "config": "default", "split": "test"} for each in sorted({value.task for value in found})
    ]
    about = {
        "name": _NAME,
        "description": _SUMMARY,
        "evaluation_framework": "robustness-bench",
        "tasks": tasks,
    }
    text: str = part("hub", "yaml", _WHAT).safe_dump(about, sort_keys=False, allow_unicode=True)
    return text


def _card(rows: int) -> str:
    front = part("hub", "huggingface_hub", _WHAT).DatasetCardData(
        pretty_name=_NAME,
        task_categories=["image-classification"],
        tags=["adversarial-robustness", "robustness-bench"],
        configs=[{"config_name": "default", "data_files": [{"split": "test", "path": TABLE}]}],
    )
    meanings = "\n".join(f"| `{name}` | {text} |" for name, text in _MEANING.items())
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {_NAME}\n\n{_SUMMARY} {rows} rows.\n\n"
        f"| column | |\n|---|---|\n{meanings}\n"
    )
