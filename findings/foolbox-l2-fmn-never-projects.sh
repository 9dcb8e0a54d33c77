#!/usr/bin/env bash
# foolbox's L2 Fast Minimum-Norm attack does not minimize the norm: more steps give the same distances.
#
# FMN shrinks a ball around the image and projects each iterate onto it. `L2FMNAttack.project` returns its
# argument whatever the radius (it divides the norm by itself), so the attack keeps the first adversarial image
# it meets, about one `max_stepsize` away. No warning comes, every image is fooled and the returned distance is
# the true one of a poor image: a model looks twice as robust in L2 as under DDN, and 1000 steps look converged.
# Projections of `L1FMNAttack` and `LInfFMNAttack` are right.
#
# Seen with torch 2.14.1, foolbox 3.3.4, scikit-learn 1.9.0 on a CPU, 2026-11-30, 60 images, all fooled:
#   projection onto radius 0.1 of a perturbation of norm 8.000 has norm 8.000
#   median L2 of FMN 0.879, 0.879, 0.879 with 10, 100, 1000 steps (0.502 with max_stepsize 0.1)
#   median L2 of DDN 0.439
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.14.1 torchvision==0.29.1 foolbox==3.3.4 scikit-learn==1.9.0 2>/dev/null

"$folder/venv/bin/python" - <<'PY'
import eagerpy
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
net.requires_grad_(False).eval()
correct = 1400 + torch.nonzero(net(x[1400:]).argmax(1) == y[1400:])[:60, 0]
x, y = x[correct], y[correct]

zero, one = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
projected = foolbox.attacks.L2FMNAttack().project(
    eagerpy.astensor(one), eagerpy.astensor(zero), eagerpy.astensor(torch.tensor([0.1]))
)
norm = float(projected.raw.norm())
print(f"projection onto radius 0.1 of a perturbation of norm {one.norm():.3f} has norm {norm:.3f}")

model = foolbox.PyTorchModel(net, bounds=(0, 1))


def median(attack) -> float:
    _, images, fooled = attack(model, x, y, epsilons=None)
    assert fooled.all() and (net(images).argmax(1) != y).all()
    return float((images - x).flatten(1).norm(dim=1).median())


fmn = [median(foolbox.attacks.L2FMNAttack(steps=steps)) for steps in (10, 100, 1000)]
small = median(foolbox.attacks.L2FMNAttack(steps=1000, max_stepsize=0.1))
ddn = median(foolbox.attacks.DDNAttack(steps=100))
print(f"median L2 of FMN {fmn[0]:.3f}, {fmn[1]:.3f}, {fmn[2]:.3f} with 10, 100, 1000 steps "
      f"({small:.3f} with max_stepsize 0.1)")
print(f"median L2 of DDN {ddn:.3f}")
assert norm > 7.9, "it projects now"
assert max(fmn) - min(fmn) < 0.01, "steps matter now"
assert fmn[2] > 1.6 * ddn, "it is about as near as DDN now"
PY
echo "as seen: L2 FMN does not project and stays twice as far as DDN"
