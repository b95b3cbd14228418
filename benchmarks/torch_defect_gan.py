"""Defect-GAN in PyTorch, as people write it: StarGAN's networks with SPADE, noise, two heads and a composition.

An independent writing of the same networks and losses, for parity tests and for timing. Images are NCHW in [-1, 1].
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional


class Spade(nn.Module):
    def __init__(self, channels: int, controls: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels, affine=False)
        self.shared = nn.Sequential(nn.Conv2d(controls, hidden, 3, padding=1), nn.ReLU())
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x, control):
        control = self.shared(functional.interpolate(control, size=x.shape[2:], mode="nearest"))
        return self.norm(x) * (1 + self.gamma(control)) + self.beta(control)


class Plain(nn.InstanceNorm2d):
    def __init__(self, channels: int, *_: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x, control):
        return super().forward(x)


class Residual(nn.Module):
    def __init__(self, channels: int, norm, *control: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = norm(channels, *control)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = norm(channels, *control)

    def forward(self, x, control):
        y = functional.relu(self.norm1(self.conv1(x), control))
        return x + self.norm2(self.conv2(y), control)


class Generator(nn.Module):
    """(image, control map, a list of noise maps) -> (foreground, mask)."""

    def __init__(self, controls: int, width: int = 64, blocks: int = 6, hidden: int = 128, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 7, padding=3, bias=False)
        self.down1 = nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False)
        self.norms = nn.ModuleList([Plain(width), Plain(2 * width), Plain(4 * width)])
        kinds = [Plain if number < blocks // 2 else Spade for number in range(blocks)]
        self.trunk = nn.ModuleList([Residual(4 * width, kind, controls, hidden) for kind in kinds])
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False)
        self.up1_norm = Spade(2 * width, controls, hidden)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False)
        self.up2_norm = Spade(width, controls, hidden)
        widths = [width, 2 * width, 4 * width, *[4 * width] * blocks, 2 * width, width]
        self.strengths = nn.ParameterList([nn.Parameter(torch.zeros(1, w, 1, 1)) for w in widths])
        self.foreground = nn.Conv2d(width, channels, 7, padding=3, bias=False)
        self.mask = nn.Conv2d(width, 1, 7, padding=3)

    def forward(self, x, control, noises=None):
        number = 0

        def noisy(y):
            nonlocal number
            noise = torch.randn(len(y), 1, *y.shape[2:]) if noises is None else noises[number]
            number += 1
            return y + self.strengths[number - 1] * noise

        for conv, norm in zip((self.stem, self.down1, self.down2), self.norms, strict=True):
            x = noisy(functional.relu(norm(conv(x), control)))
        for block in self.trunk:
            x = noisy(block(x, control))
        x = noisy(functional.relu(self.up1_norm(self.up1(x), control)))
        x = noisy(functional.relu(self.up2_norm(self.up2(x), control)))
        return torch.tanh(self.foreground(x)), torch.sigmoid(self.mask(x))


class Critic(nn.Module):
    """Image -> (patches, logits)."""

    def __init__(self, controls: int, size: int, width: int = 64, layers: int = 6, channels: int = 3) -> None:
        super().__init__()
        widths = [channels, *(width * 2**number for number in range(layers))]
        convs = []
        for c, o in pairwise(widths):
            convs += [nn.Conv2d(c, o, 4, 2, 1), nn.LeakyReLU(0.01)]
        self.main = nn.Sequential(*convs)
        self.source = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)
        self.classes = nn.Conv2d(widths[-1], controls, size // 2**layers, bias=False)

    def forward(self, x):
        x = self.main(x)
        return self.source(x), self.classes(x)[:, :, 0, 0]


def compose(image, foreground, mask):
    return image * (1 - mask) + foreground * mask


def class_loss(logits, labels, exclusive: bool):
    if exclusive:
        return functional.cross_entropy(logits, labels.argmax(dim=1))
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(logits)


def penalty(critic, mixed):
    mixed = mixed.detach().requires_grad_()
    value = critic(mixed)[0].mean(dim=(1, 2, 3)).sum()
    (gradient,) = torch.autograd.grad(value, mixed, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


def critic_loss(critic, real, drawn, labels, share, *, exclusive: bool, w_gradient=10.0, w_class=5.0):
    """`real` are images that show `labels`; `share` in [0, 1] mixes both for the penalty."""
    (real_patches, logits), (drawn_patches, _) = critic(real), critic(drawn)
    distance = drawn_patches.mean() - real_patches.mean()
    mixed = share * real + (1 - share) * drawn
    return distance + w_gradient * penalty(critic, mixed) + w_class * class_loss(logits, labels, exclusive)


def generator_loss(generator, critic, images, asked, there, back, noises, *, exclusive: bool, w_size=1.0, weights=None):
    """Both cycles in one batch; `noises` are those of both halves."""
    w_class, w_rec, w_cycle = weights or (10.0, 5.0, 5.0)
    f1, m1 = generator(images, there, noises[0])
    drawn = compose(images, f1, m1)
    f2, m2 = generator(drawn, back, noises[1])
    patches, logits = critic(drawn)
    loss = -patches.mean() + w_class * class_loss(logits, asked, exclusive)
    loss = loss + w_rec * functional.l1_loss(compose(drawn, f2, m2), images)
    return loss + w_cycle * functional.l1_loss(m1, m2) + w_size * (m1.mean() + m2.mean())
