"""FastFlow in PyTorch as people write it, from the sheet: what ours is measured against and checked against."""

import torch
from torch import nn
from torch.nn import functional


class CouplingStep(nn.Module):
    """One affine coupling, a learned gain and shift per channel, a fixed permutation."""

    def __init__(self, channels: int, hidden: int, kernel: int, clamp: float = 2.0):
        super().__init__()
        self.kept, self.clamp = channels - channels // 2, clamp
        moved = channels - self.kept
        self.subnet = nn.Sequential(
            nn.Conv2d(self.kept, hidden, kernel, padding="same"),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * moved, kernel, padding="same"),
        )
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), 9.98649))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("permutation", torch.randperm(channels))

    def forward(self, x):
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        raw_s, t = (0.1 * self.subnet(kept)).chunk(2, dim=1)
        log_s = self.clamp * torch.tanh(raw_s)
        gain = 0.1 * functional.softplus(self.gamma, beta=0.5)
        y = torch.cat([kept, moved * torch.exp(log_s) + t], dim=1) * gain + self.shift
        log_det = log_s.sum((1, 2, 3)) + gain.log().sum() * x.shape[2] * x.shape[3]
        return y[:, self.permutation], log_det


class Flow(nn.Module):
    def __init__(self, channels: int, steps: int = 8, kernel: int = 3):
        super().__init__()
        self.steps = nn.ModuleList(CouplingStep(channels, channels // 2, kernel) for _ in range(steps))

    def forward(self, x):
        total = x.new_zeros(x.shape[0])
        for step in self.steps:
            x, log_det = step(x)
            total = total + log_det
        return x, total


class BasicBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            if stride > 1
            else None
        )

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet18Stages(nn.Module):
    """The first three stages, as timm's features_only gives them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages = ((64, 64, 1), (64, 128, 2), (128, 256, 2))
        self.stages = nn.ModuleList(nn.Sequential(BasicBlock(i, o, s), BasicBlock(o, o, 1)) for i, o, s in stages)

    def forward(self, x):
        x, features = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class FastFlow(nn.Module):
    """Backbone, LayerNorm over each volume with its affine, flows; the loss in training, the map otherwise."""

    def __init__(self, size: int = 256, affine: bool = True):
        super().__init__()
        self.size = size
        self.backbone = ResNet18Stages().requires_grad_(False).eval()
        scales = [(64, size // 4), (128, size // 8), (256, size // 16)]
        self.norms = nn.ModuleList(nn.LayerNorm([c, s, s], elementwise_affine=affine) for c, s in scales)
        self.flows = nn.ModuleList(Flow(c) for c, _ in scales)

    def train(self, mode: bool = True):
        super().train(mode)
        self.backbone.eval()  # its batch norms stay as they are
        return self

    def forward(self, x):
        outputs = [f(n(x)) for f, n, x in zip(self.flows, self.norms, self.backbone(x), strict=True)]
        if self.training:
            return sum((0.5 * (z**2).sum((1, 2, 3)) - log_det).mean() for z, log_det in outputs)
        return anomaly_map([z for z, _ in outputs], self.size)


def anomaly_map(latents, size: int):
    """Mean over scales of 1 - exp(-1/2 mean z^2), upsampled, and its largest pixel."""
    maps = [
        functional.interpolate(
            1 - torch.exp(-0.5 * (z**2).mean(1, keepdim=True)), size=[size, size], mode="bilinear", align_corners=False
        )
        for z in latents
    ]
    mean = torch.stack(maps).mean(0)[:, 0]
    return mean.amax((1, 2)), mean
