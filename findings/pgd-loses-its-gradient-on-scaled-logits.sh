#!/usr/bin/env bash
# PGD of foolbox and of torchattacks fails on a model whose logits are multiplied by a constant.
#
# The constant changes no prediction and no exact gradient direction. In float32 the cross-entropy's gradient,
# softmax minus one-hot, first loses the true class's component (1 - p rounds to 0 at a margin of about 17) and
# then all others (they underflow at about 104). Neither library says so: the images it could not move count
# as robust. A loss without the saturation, logsumexp of the other logits minus the true one, has the same
# direction in exact arithmetic.
#
# Seen with torch 2.14.1, foolbox 3.3.4, torchattacks 3.5.1, scikit-learn 1.9.0 on a CPU, of 300 images:
#   x1    foolbox leaves 100, torchattacks 100
#   x10   foolbox leaves 113, torchattacks 113
#   x100  foolbox leaves 254, torchattacks 257
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
net.requires_grad_(False).eval()


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.factor * net(image)


x, y = x[1400:1700], y[1400:1700]
eps, left = 0.1, {}
for factor in (1, 10, 100):
    model = Scaled(factor).eval()
    attack = foolbox.attacks.LinfPGD(steps=40, rel_stepsize=0.1, random_start=True)
    torch.manual_seed(0)
    _, _, fooled = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=eps)
    other = torchattacks.PGD(model, eps=eps, alpha=eps / 10, steps=40)
    torch.manual_seed(0)
    images = other(x, y)
    left[factor] = int((~fooled).sum()), int((model(images).argmax(1) == y).sum())
    print(f"x{factor}: of 300 images foolbox leaves {left[factor][0]}, torchattacks {left[factor][1]}")
for library in (0, 1):
    assert left[1][library] < 150, "the unscaled model was meant to be easy"
    assert left[100][library] > left[1][library] + 60, "it no longer fails on the scaled model"
PY
echo "as seen: the scaled model looks far more robust"
