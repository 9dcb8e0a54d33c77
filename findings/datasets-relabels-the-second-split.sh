#!/usr/bin/env bash
# Hugging Face datasets gives the second split of Parquet files the class names of the first, and keeps its numbers.
#
# Each file that `to_parquet` writes holds its own class names. `class_encode_column` numbers the classes it finds,
# in sorted order: a test part that lacks one class has other numbers than the training part, which is right, as
# its file says so. Loaded alone the test file is read rightly. Loaded beside the training file, whole or as a
# stream, or as a second shard of one split, it takes the first file's names without a comparison: each label is
# then another class, in range and silently. `concatenate_datasets` refuses the same two parts. The other order of
# the files (test first) is noticed only where a number is out of range.
#
# Seen with datasets 5.2.0, pyarrow 26.0.1, 2026-11-30; the test part holds cat, dog, frog:
#   test file alone                 cat dog frog
#   beside the training file        bird cat dog
#   the same as a stream            bird cat dog
#   as the second shard of a split  bird cat dog
#   a classifier that is right on each test image has an accuracy of 0 %
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 2>/dev/null

cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import datasets

datasets.disable_progress_bars()
parts = {"train": ["bird", "cat", "dog", "frog"], "test": ["cat", "dog", "frog"]}
encoded = {}
for split, names in parts.items():
    rows = datasets.Dataset.from_dict({"image": list(range(len(names))), "label": names})
    encoded[split] = rows.class_encode_column("label")
    encoded[split].to_parquet(f"{split}.parquet")
files = {split: f"{split}.parquet" for split in parts}


def names_of(rows) -> list[str]:
    return [rows.features["label"].int2str(row["label"]) for row in rows]


alone = names_of(datasets.load_dataset("parquet", data_files=files["test"], split="train"))
both = datasets.load_dataset("parquet", data_files=files)["test"]
beside = names_of(both)
stream = names_of(datasets.load_dataset("parquet", data_files=files, streaming=True)["test"])
shards = datasets.load_dataset("parquet", data_files=list(files.values()), split="train")
second = names_of(shards)[len(parts["train"]) :]
for name, read in (
    ("test file alone", alone),
    ("beside the training file", beside),
    ("the same as a stream", stream),
    ("as the second shard of a split", second),
):
    print(f"{name:31} {' '.join(read)}")
numbers = [both.features["label"].str2int(name) for name in parts["test"]]
accuracy = sum(guess == label for guess, label in zip(numbers, both["label"])) / len(numbers)
print(f"a classifier that is right on each test image has an accuracy of {100 * accuracy:.0f} %")
try:
    datasets.concatenate_datasets([encoded["train"], encoded["test"]])
except ValueError:
    print("concatenate_datasets refuses the two parts")
else:
    raise AssertionError("concatenate_datasets accepts the two parts now")
assert alone == parts["test"], "the file alone was meant to be read rightly"
assert beside == stream == second == ["bird", "cat", "dog"] and accuracy == 0, "the names are kept now"
PY
echo "as seen: the second file's labels are other classes"
