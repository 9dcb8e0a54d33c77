import torch

from robustness_bench.benchmark.networks.layers import MeanLogits
from tests.support import Linear, images


def test_the_mean_of_linear_models_is_the_linear_model_of_mean_weights() -> None:
    members, x = [Linear(seed=seed) for seed in range(3)], images(4, size=6)
    mean = Linear()
    with torch.no_grad():
        mean.weight.copy_(torch.stack([each.weight for each in members]).mean(0))
        mean.bias.copy_(torch.stack([each.bias for each in members]).mean(0))
    assert torch.allclose(MeanLogits(members)(x), mean(x), atol=1e-5)
