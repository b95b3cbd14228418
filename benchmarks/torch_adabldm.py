"""AdaBLDM's networks in PyTorch, as people write them: diffusers' U-Net and ControlNet, TAEF2's decoder plainly."""

from functools import partial

import torch
from diffusers import ControlNetModel, UNet2DConditionModel


def settings(spec) -> dict:
    return {
        "in_channels": spec.latent_channels,
        "block_out_channels": spec.level_widths,
        "layers_per_block": spec.residual_blocks,
        "down_block_types": [f"{'CrossAttn' if with_ else ''}DownBlock2D" for with_ in spec.transformers],
        "cross_attention_dim": spec.context,
        "attention_head_dim": spec.heads,  # their name for the number of heads
        "norm_num_groups": spec.groups,
    }


def unet(spec) -> UNet2DConditionModel:
    up = [f"{'CrossAttn' if with_ else ''}UpBlock2D" for with_ in spec.transformers[::-1]]
    return UNet2DConditionModel(**settings(spec), out_channels=spec.latent_channels, up_block_types=up, sample_size=16)


def controlnet(spec, trimap) -> ControlNetModel:
    return ControlNetModel(**settings(spec), conditioning_embedding_out_channels=trimap.widths)


class Block(torch.nn.Module):
    """Three convolutions beside a shortcut; where `pooled` after a branch that sees the whole map."""

    def __init__(self, width: int, pooled: bool):
        super().__init__()
        conv, relu = partial(torch.nn.Conv2d, width, width, 3, padding=1), torch.nn.ReLU
        self.conv = torch.nn.Sequential(conv(), relu(), conv(), relu(), conv())
        self.pool = None
        if pooled:
            widen, narrow = (torch.nn.Conv2d(a, b, 1, bias=False) for a, b in ((width, 4 * width), (4 * width, width)))
            self.pool = torch.nn.Sequential(widen, torch.nn.GroupNorm(4, 4 * width), relu(), narrow)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Clamp(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


def tiny_decoder(spec) -> torch.nn.Sequential:
    """Of the TAESD family; images in [-1, 1]."""
    width, conv = spec.width, partial(torch.nn.Conv2d, kernel_size=3, padding=1)
    layers = [Clamp(), conv(spec.latent_channels, width), torch.nn.ReLU()]
    for level in range(3):
        layers += [Block(width, spec.pooled and level == 0) for _ in range(3)]
        layers += [torch.nn.Upsample(scale_factor=2), conv(width, width, bias=False)]
    return torch.nn.Sequential(*layers, Block(width, False), conv(width, 3))


def tiny_encoder(spec) -> torch.nn.Sequential:
    """Of the TAESD family."""
    width, conv = spec.width, partial(torch.nn.Conv2d, kernel_size=3, padding=1)
    layers = [conv(3, width), Block(width, False)]
    for level in range(3):
        layers += [conv(width, width, stride=2, bias=False)]
        layers += [Block(width, spec.pooled and level == 2) for _ in range(3)]
    return torch.nn.Sequential(*layers, conv(width, spec.latent_channels))
