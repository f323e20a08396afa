"""The residual network that reads 16x16 grey images of digits: 54,000 weights, 2.7 million multiply-adds an image."""

from __future__ import annotations

import torch
from torch import nn

STEM = 16
WIDTHS = (16, 32, 48)  # one residual block each; every block after the first halves the image
CLASSES = 10


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution with BatchNorm, whose shift makes a bias superfluous."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class ResidualBlock(nn.Module):
    """``relu(body(x) + shortcut(x))``; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(inputs, outputs, 3, stride), nn.ReLU(), _convolution(outputs, outputs, 3)
        )
        same_shape = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same_shape else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class DigitsNet(nn.Module):
    """Images, float32 (N, 1, 16, 16) with values 0 to 1, to logits, float32 (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = STEM
        for index, outputs in enumerate(WIDTHS):
            blocks.append(ResidualBlock(inputs, outputs, stride=1 if index == 0 else 2))
            inputs = outputs
        self.stem = nn.Sequential(_convolution(1, STEM, 3), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(inputs, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.blocks(self.stem(x))).flatten(1)
        logits: torch.Tensor = self.classify(features)
        return logits
