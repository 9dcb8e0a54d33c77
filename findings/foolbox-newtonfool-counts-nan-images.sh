#!/usr/bin/env bash
# foolbox's NewtonFool returns images of NaN and counts them as successes within any epsilon.
#
# It takes the sum of squares for the norm, so each step is divided by the gradient's norm to the fourth power
# instead of the square. A first step overshoots, the next gradient (or, in a network sure of itself, the first) is
# so small that its power underflows, 0 / 0 makes all pixels NaN, the logits too, and argmax of NaN logits is
# class 0: a success for every true class but 0. Clipping to epsilon keeps NaN, so the success flags for a given
# epsilon hold them as well. Robust accuracy falls to the share of class 0; nothing is raised or warned of.
#
# Seen with torch 2.14.1, foolbox 3.3.4, scikit-learn 1.9.0 on a CPU, 2026-11-30, 300 images, L2 epsilon 0.05:
#   logits x1    300 images: 109 are NaN, 99 of them successes; robust 55.3 %, 88.3 % with NaN as no success
#   logits x10   300 images: 275 are NaN, 247 of them successes; robust 10.0 %, 92.3 % with NaN as no success
#   class 0 is 10.0 % of the images
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.14.1 torchvision==0.29.1 foolbox==3.3.4 scikit-learn==1.9.0 2>/dev/null

"$folder/venv/bin/python" - <<'PY'
import foolbox
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
y = torch.tensor(digits.target)
net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(300):
    optimizer.zero_grad()
    functional.cross_entropy(net(x[:1400]), y[:1400]).backward()
    optimizer.step()
x, y = x[1400:1700], y[1400:1700]

for factor in (1, 10):
    with torch.no_grad():
        net[3].weight.mul_(factor)
        net[3].bias.mul_(factor)
    net.requires_grad_(False).eval()
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    _, images, success = foolbox.attacks.NewtonFoolAttack()(model, x, y, epsilons=0.05)
    nan = images.flatten(1).isnan().any(1)
    wrong, right = 1 - success.float().mean(), 1 - (success & ~nan).float().mean()
    print(f"logits x{factor:<4} {len(x)} images: {int(nan.sum())} are NaN, {int((nan & success).sum())} of them "
          f"successes; robust {100 * wrong:.1f} %, {100 * right:.1f} % with NaN as no success")
    assert (nan & success).sum() > 50, "NaN images are no successes now"
    assert right - wrong > 0.2, "the robust accuracy is right now"
    assert ((y == 0) == ~success)[nan].all(), "NaN images of other classes are no successes now"
print(f"class 0 is {100 * float((y == 0).float().mean()):.1f} % of the images")
PY
echo "as seen: NaN images count as successes"
