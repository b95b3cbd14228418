"""Published networks in plain PyTorch, with the names that torchvision, timm and the authors give their tensors.

Written from the papers' and projects' descriptions, apart from ours. `maps(x)` gives the features that FastFlow reads.
"""

import torch
from torch import nn
from torch.nn import functional


def shaken(network: nn.Module, seed: int) -> nn.Module:
    """Every tensor random and none negligible: batch norms that do something, layer scales that are not 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            noise = torch.randn(value.shape, generator=generator) if value.dtype.is_floating_point else None
            if noise is None:
                continue
            if name.endswith("running_var"):
                value.copy_(1 + 0.5 * noise.tanh())
            elif value.ndim < 2 and not name.endswith(("bias", "running_mean")):
                value.copy_(1 + 0.3 * noise.tanh())
            elif value.ndim < 2 or value.shape[0] == 1:
                value.copy_(0.3 * noise)
            else:
                value.copy_(noise / value[0].numel() ** 0.5)
    return network.eval()


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample(channels, width, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (self.downsample(x) if self.downsample is not None else x))


class WideBottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample(channels, 4 * width, stride)

    def forward(self, x):
        y = functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (self.downsample(x) if self.downsample is not None else x))


def downsample(channels, features, stride):
    if stride == 1 and channels == features:
        return None
    return nn.Sequential(nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features))


class ResNet(nn.Module):
    """torchvision's, timm's."""

    def __init__(self, block, depths, widths, stem=64, classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        channels = stem
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, width, 2 if number > 1 and index == 0 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def maps(self, x):
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        found = []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            found.append(x)
        return found


class MobileNet(nn.Module):
    """Keras' MobileNet V1, batch norm folded away."""

    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    multiples = (2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)

    def __init__(self, stem, taps):
        super().__init__()
        self.taps = taps
        self.conv1 = nn.Conv2d(3, stem, 3, 2)
        channels = stem
        for number, (stride, multiple) in enumerate(zip(self.strides, self.multiples, strict=True), start=1):
            self.add_module(f"conv_dw_{number}", nn.Conv2d(channels, channels, 3, stride, groups=channels))
            self.add_module(f"conv_pw_{number}", nn.Conv2d(channels, stem * multiple, 1))
            channels = stem * multiple
        self.conv_preds = nn.Conv2d(channels, 1000, 1)

    def maps(self, x):
        x = functional.relu6(self.conv1(functional.pad(x, (0, 1, 0, 1))))
        found = []
        for number, stride in enumerate(self.strides, start=1):
            x = functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
            x = functional.relu6(getattr(self, f"conv_dw_{number}")(x))
            x = functional.relu6(getattr(self, f"conv_pw_{number}")(x))
            if number in self.taps:
                found.append(x)
        return found


class Attention(nn.Module):
    def __init__(self, width, heads, talking):
        super().__init__()
        self.heads, self.talking = heads, talking
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        if talking:
            self.proj_l = nn.Linear(heads, heads)
            self.proj_w = nn.Linear(heads, heads)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.talking:
            weights = (q @ k.transpose(-1, -2)) / (c // self.heads) ** 0.5
            weights = self.proj_l(weights.permute(0, 2, 3, 1)).softmax(dim=2)
            weights = self.proj_w(weights).permute(0, 3, 1, 2)
            y = weights @ v
        else:
            y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


class ClassAttention(nn.Module):
    """Only its names matter: FastFlow stops before it."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class Block(nn.Module):
    """scales: "" for none, "ls" as DINOv2 names them, "gamma" as CaiT does."""

    def __init__(self, width, heads, *, scales="", talking=False, attention=None):
        super().__init__()
        self.scales = scales
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = attention or Attention(width, heads, talking)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        if scales == "ls":
            self.ls1, self.ls2 = Scale(width), Scale(width)
        if scales == "gamma":
            self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        one = two = 1
        if self.scales == "ls":
            one, two = self.ls1.gamma, self.ls2.gamma
        if self.scales == "gamma":
            one, two = self.gamma_1, self.gamma_2
        x = x + one * self.attn(self.norm1(x))
        return x + two * self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class DeiT(nn.Module):
    """Distilled DeiT."""

    def __init__(self, width, heads, depth, grid, patch=16):
        super().__init__()
        self.grid = grid
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + grid**2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head, self.head_dist = nn.Linear(width, 1000), nn.Linear(width, 1000)

    def maps(self, x, blocks):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        n = len(x)
        x = torch.cat([self.cls_token.expand(n, -1, -1), self.dist_token.expand(n, -1, -1), x], 1) + self.pos_embed
        for block in self.blocks[:blocks]:
            x = block(x)
        return [as_map(self.norm(x)[:, 2:], self.grid)]


class CaiT(nn.Module):
    def __init__(self, width, heads, depth, grid, patch=16):
        super().__init__()
        self.grid = grid
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid**2, width))
        self.blocks = nn.ModuleList(Block(width, heads, scales="gamma", talking=True) for _ in range(depth))
        self.blocks_token_only = nn.ModuleList(
            Block(width, heads, scales="gamma", attention=ClassAttention(width)) for _ in range(2)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 1000)

    def maps(self, x, blocks):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks[:blocks]:
            x = block(x)
        return [as_map(self.norm(x), self.grid)]


class DINOv2(nn.Module):
    """The authors' names; registers stand between the class token and the patches and have no position."""

    def __init__(self, width, heads, depth, grid, registers, patch=14):
        super().__init__()
        self.grid, self.patch = grid, patch
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.ModuleList(Block(width, heads, scales="ls") for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def maps(self, x, blocks):
        side = x.shape[-1] // self.patch
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.position(side)
        first = 1
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
            first += self.register_tokens.shape[1]
        for block in self.blocks[:blocks]:
            x = block(x)
        return [as_map(self.norm(x)[:, first:], side)]

    def position(self, side):
        if side == self.grid:
            return self.pos_embed
        square = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        resized = resize_position(square, side, registers=self.register_tokens is not None)
        return torch.cat([self.pos_embed[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def resize_position(square, side, *, registers):
    """As the authors' hub file has it: with registers antialiased, without by a scale that 0.1 is added to."""
    if registers:
        return functional.interpolate(square, size=(side, side), mode="bicubic", antialias=True)
    scale = (side + 0.1) / square.shape[-1]
    return functional.interpolate(square, scale_factor=(scale, scale), mode="bicubic")


def as_map(tokens, side):
    return tokens.reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)
