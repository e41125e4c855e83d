"""The U-Net of `seg.models.unet` as anybody would write it in PyTorch."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def _block(before: int, channels: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inputs in (before, channels):
        parts += [nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)]
    return nn.Sequential(*parts)


def device() -> torch.device:
    """Where PyTorch trains: the first GPU that it sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class UNet(nn.Module):
    """From (batch, 3, height, width), 0 to 255, to logits (batch, 1, height, width)."""

    def __init__(self, filters: int, depth: int = 4) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(_block(before, width) for before, width in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in widths[:-1])
        self.decoder = nn.ModuleList(_block(2 * width, width) for width in widths[:-1])
        self.logits = nn.Conv2d(filters, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image / 255
        skipped = []
        for block in self.encoder[:-1]:
            x = block(x)
            skipped.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.encoder[-1](x)
        for level in reversed(range(len(skipped))):
            x = self.decoder[level](torch.cat([skipped[level], self.up[level](x)], 1))
        return self.logits(x)


def segmentation_models_unet() -> nn.Module:
    """segmentation_models.pytorch's U-Net with its ResNet-18 encoder, without pre-trained weights.

    Beside PyTorch's CPU build, torchvision's compiled operators do not load, and its import fails for want of their
    names. The model uses none of them, so naming them is enough.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        named = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            named.define(f"{operator}{boxes}")
        _kept.append(named)
    import segmentation_models_pytorch

    return segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, in_channels=3, classes=1)


_kept: list[Any] = []  # the names go when the library object goes


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus one minus Dice, mean over the images; in float32."""
    logits = logits.float()
    bce = functional.binary_cross_entropy_with_logits(logits, masks)
    probabilities = logits.sigmoid()
    both = (masks * probabilities).sum((1, 2, 3))
    total = masks.sum((1, 2, 3)) + probabilities.sum((1, 2, 3))
    return bce + (1 - (2 * both + 1) / (total + 1)).mean()
