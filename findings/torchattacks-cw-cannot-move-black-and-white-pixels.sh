#!/usr/bin/env bash
# torchattacks' CW never moves a pixel that is exactly 0 or 1, and does nothing to a model of negative outputs.
#
# It optimizes in the space of atanh. Pixels at 0 and 1 are not drawn inward first: they start at -inf and +inf,
# where tanh has no slope, and stay. Of a black-and-white image (binarized MNIST, input of a binarizing defense)
# nothing can move. Its margin blanks other logits by multiplying with a 0/1 mask, so 0 competes with the real
# ones: if all outputs are negative, as log-probabilities are, both sides of the margin are 0 and so is its
# gradient. No c, step size or number of steps helps. The images come back as they were, without a word,
# and count as robust; foolbox's CW, the same attack, fools nearly all of them.
#
# Seen with torch 2.14.1, torchattacks 3.5.1, foolbox 3.3.4, scikit-learn 1.9.0 on a CPU, 2026-11-30,
# 100 correctly classified images each, c = 10, 1000 steps:
#   grey images, logits              torchattacks fools 100, foolbox 100; of 0/1 pixels moved 0
#   black-and-white images, logits   torchattacks fools 0, foolbox 88; of 0/1 pixels moved 0
#   grey images, log-probabilities   torchattacks fools 0, foolbox 100; of 0/1 pixels moved 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.14.1 torchvision==0.29.1 foolbox==3.3.4 torchattacks==3.5.1 scikit-learn==1.9.0 2>/dev/null

"$folder/venv/bin/python" - <<'PY'
import foolbox
import torch
import torchattacks
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)
digits = load_digits()
grey = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)


def compare(name: str, x: torch.Tensor, last: nn.Module) -> tuple[int, int]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), last)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        functional.cross_entropy(net(x[:1400]), labels[:1400]).backward()
        optimizer.step()
    net.requires_grad_(False).eval()
    chosen = 1400 + torch.nonzero(net(x[1400:]).argmax(1) == labels[1400:])[:100, 0]
    images, y = x[chosen], labels[chosen]
    moved = torchattacks.CW(net, c=10, steps=1000)(images, y)
    fooled = int((net(moved).argmax(1) != y).sum())
    extreme = (images == 0) | (images == 1)
    moved_extremes = int((moved != images)[extreme].sum())
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=200)
    _, _, success = attack(foolbox.PyTorchModel(net, bounds=(0, 1)), images, y, epsilons=None)
    print(f"{name:32} torchattacks fools {fooled}, foolbox {int(success.sum())}; "
          f"of 0/1 pixels moved {moved_extremes}")
    assert moved_extremes == 0, "it moves 0/1 pixels now"
    return fooled, int(success.sum())


plain = compare("grey images, logits", grey, nn.Identity())
binary = compare("black-and-white images, logits", (grey > 0.5).float(), nn.Identity())
logs = compare("grey images, log-probabilities", grey, nn.LogSoftmax(1))
assert plain[0] > 90, "the plain case was meant to be easy"
for mine, peer in (binary, logs):
    assert peer > 75, "these cases were meant to be easy"
    assert mine == 0, "it no longer leaves these images as they are"
PY
echo "as seen: CW of torchattacks leaves such images as they are"
