"""A network as a class. Its weights lie beside this file, in `weights.safetensors`."""

from __future__ import annotations

import torch


class DigitsNet(torch.nn.Module):  # type: ignore[misc]
    """Images of 8 × 8 pixels to a score for each digit."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.look = torch.nn.Conv2d(1, channels, 3)
        self.judge = torch.nn.Linear(channels * 36, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = torch.relu(self.look(image)).flatten(1)
        scores = self.judge(seen)
        return {"scores": scores, "digit": scores.argmax(1)}
