"""Several networks as one, for black-box attacks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MeanLogits(nn.Module):
    """The mean of its members' logits, of which the attacked image must fool all.

    Ensembles as surrogates: Liu et al. 2017, https://arxiv.org/abs/1611.02770, section 4.2, who average
    probabilities; logits as in Dong et al. 2018, https://arxiv.org/abs/1710.06081, equation 8, equal weights.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)
