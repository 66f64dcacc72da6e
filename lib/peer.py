"""What the papers' networks in PyTorch share. They stand beside ours to be compared with: tests show that both compute
the same, launch.benchmark how fast. torch has to be installed (requirements-peer.txt) for this, for launch/peer.py and
for the peer.py of each paper, and for nothing else.
"""
import torch
from torch import nn


class Dropout(nn.Module):
    """The papers': outputs are zeroed in training, by `mask` if one is set and else by a new one, each with probability
    `rate`; and multiplied by the fraction kept at test time."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate, self.mask = rate, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x * (1 - self.rate)
        return x * (torch.empty_like(x).bernoulli_(1 - self.rate) if self.mask is None else self.mask)


def sized(network: nn.Module, image_size: int, channels: int = 3) -> nn.Module:
    """The network with the sizes of its nn.LazyLinear layers found, by an image of that size."""
    with torch.no_grad():
        network(torch.zeros(2, channels, image_size, image_size))
    return network
