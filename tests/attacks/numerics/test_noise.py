import torch
from torch import Tensor, nn

from robustness_bench.attacks.autoattack import AutoAttack
from robustness_bench.attacks.numerics.noise import Noise, key_of
from tests.support import images, small_model


def test_belongs_to_the_sample_not_the_batch() -> None:
    ids = torch.arange(10)
    whole = Noise.for_samples(ids, 3, "PGD")
    part = Noise.for_samples(ids[[7, 2]], 3, "PGD")
    assert torch.equal(whole.uniform((2, 4))[[7, 2]], part.uniform((2, 4)))
    assert torch.equal(whole[torch.tensor([7, 2])].normal((5,)), part.normal((5,)))


def test_streams_draws_seeds_and_samples_differ() -> None:
    ids = torch.arange(2)
    noise = Noise.for_samples(ids, 0, "a")
    first = noise.uniform((64,))
    others = [
        noise.uniform((64,), draw=1),
        Noise.for_samples(ids, 1, "a").uniform((64,)),
        Noise.for_samples(ids, 0, "b").uniform((64,)),
        first.flip(0),
    ]
    for other in others:
        assert (first - other).abs().mean() > 0.2  # independent uniforms differ by 1/3 on average


def test_distributions() -> None:
    noise = Noise.for_samples(torch.arange(200), 0)
    uniform, normal = noise.uniform((500,)), noise.normal((500,))
    assert uniform.min() > 0
    assert uniform.max() < 1
    quantiles = torch.linspace(0.1, 0.9, 9)
    assert torch.allclose(uniform.flatten().quantile(quantiles), quantiles, atol=0.01)
    assert torch.allclose(
        normal.flatten().quantile(quantiles), torch.distributions.Normal(0, 1).icdf(quantiles), atol=0.02
    )
    neighbours = torch.corrcoef(torch.stack([uniform[:, :-1].flatten(), uniform[:, 1:].flatten()]))
    assert neighbours[0, 1].abs() < 0.01


def test_same_numbers_in_every_release() -> None:
    """Records depend on these values: a change here has to raise the plan's format number."""
    noise = Noise.for_samples(torch.tensor([0, 1]), 0, "PGD")
    expected = torch.tensor([[0.154965341, 0.563860476], [0.734673321, 0.270213664]])
    assert key_of(0, "PGD") == 1790146150559798835
    assert torch.allclose(noise.uniform((2,)), expected, atol=1e-7)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    Noise.for_samples(torch.arange(3), 0).normal((4,))
    assert torch.equal(before, torch.get_rng_state())


class Jittery(nn.Module):
    """A model that draws in its forward pass, in each way torch allows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        noise = torch.randn(len(x), 1) + torch.rand(size=(len(x), 1)) + torch.randn((len(x), 1))
        return logits + 1e-3 * noise.to(x) + 1e-3 * torch.rand(*x.shape, dtype=x.dtype).mean()


def test_a_model_that_draws_for_itself_can_be_attacked_by_autoattack() -> None:
    x, y = images(4), torch.tensor([0, 1, 2, 3])
    attack = AutoAttack(norm="linf", eps=0.1, steps=3, square_queries=5)
    found = attack(Jittery().eval(), x, y, seed=0)
    assert found.x_adv.shape == x.shape
    assert float((found.x_adv - x).abs().max()) <= 0.1 + 1e-6
