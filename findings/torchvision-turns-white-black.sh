#!/usr/bin/env bash
# torchvision turns a white pixel black when it scales float32 to uint16, or half precision to uint8.
#
# `to_dtype` with `scale=True` multiplies by the largest integer plus 1 minus 0.001 and drops the fraction. 65535.999
# is no float32 and 255.999 no float16 or bfloat16: the product of 1.0 rounds up to 65536 or 256, which is out of the
# integer's range and wraps to 0. Attacks clip to [0, 1], so 1.0 is a frequent value of their images, and uint16 is
# chosen to lose less than uint8 does. The other values do not fail but move: a grey level that went from uint8 to
# half precision and back is off by one for 15 of 256 levels in float16, for 127 in bfloat16. float32 to uint8 is right.
#
# Seen with torch 2.14.1, torchvision 0.29.1 on an x86-64 CPU, 2026-11-30, of the values 0, 0.5 and 1:
#   float32 to uint8     [0, 127, 255]
#   float32 to uint16    [0, 32768, 0]
#   float16 to uint8     [0, 128, 0]
#   bfloat16 to uint8    [0, 128, 0]
#   uint16 via float32 and back: white comes back as 0, 127 levels off by 1
#   uint8 via float16 and back: white comes back as 0, 15 levels off by 1
#   uint8 via bfloat16 and back: white comes back as 0, 127 levels off by 1
#   dark or bright: accuracy 100 % before the round trip through uint16, 50 % after
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 2>/dev/null

"$folder/venv/bin/python" - <<'PY'
import torch
from torchvision.transforms.v2.functional import to_dtype

values = torch.tensor([0.0, 0.5, 1.0])
seen = {}
for source, target in (
    (torch.float32, torch.uint8),
    (torch.float32, torch.uint16),
    (torch.float16, torch.uint8),
    (torch.bfloat16, torch.uint8),
):
    name = f"{source} to {target}".replace("torch.", "")
    seen[name] = to_dtype(values.to(source), target, scale=True).tolist()
    print(f"{name:20} {seen[name]}")
assert seen["float32 to uint8"] == [0, 127, 255], "this case was meant to be right"
for name in ("float32 to uint16", "float16 to uint8", "bfloat16 to uint8"):
    assert seen[name][2] == 0 and seen[name][1] > 0, f"{name}: white stays white now"

for target, largest, through in (
    (torch.uint16, 65535, torch.float32),
    (torch.uint8, 255, torch.float16),
    (torch.uint8, 255, torch.bfloat16),
):
    levels = torch.arange(largest + 1, dtype=torch.int32)
    back = to_dtype(to_dtype(levels.to(target), through, scale=True), target, scale=True).int()
    off = int(((back - levels).abs() == 1).sum())
    name = f"{target} via {through} and back".replace("torch.", "")
    print(f"{name}: white comes back as {int(back[-1])}, {off} levels off by 1")
    assert back[-1] == 0, "white stays white now"

labels = torch.arange(100) % 2
images = labels[:, None, None, None].float().expand(100, 1, 8, 8)
stored = to_dtype(images, torch.uint16, scale=True)
again = to_dtype(stored, torch.float32, scale=True)
before, after = (float(((part.mean((1, 2, 3)) > 0.5).long() == labels).float().mean()) for part in (images, again))
print(f"dark or bright: accuracy {100 * before:.0f} % before the round trip through uint16, {100 * after:.0f} % after")
assert before == 1 and after == 0.5, "white stays white now"
PY
echo "as seen: white turns black"
