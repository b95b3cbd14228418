"""InceptionV3 in plain PyTorch with torchvision's names, and pytorch-fid's three changes, written from descriptions."""

import torch
from torch import nn
from torch.nn import functional


class Conv(nn.Module):
    def __init__(self, channels, features, **options):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, bias=False, **options)
        self.bn = nn.BatchNorm2d(features, eps=0.001)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


def average(x, fid):
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=not fid)


class A(nn.Module):
    def __init__(self, channels, pool, fid):
        super().__init__()
        self.fid = fid
        self.branch1x1 = Conv(channels, 64, kernel_size=1)
        self.branch5x5_1 = Conv(channels, 48, kernel_size=1)
        self.branch5x5_2 = Conv(48, 64, kernel_size=5, padding=2)
        self.branch3x3dbl_1 = Conv(channels, 64, kernel_size=1)
        self.branch3x3dbl_2 = Conv(64, 96, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, kernel_size=3, padding=1)
        self.branch_pool = Conv(channels, pool, kernel_size=1)

    def forward(self, x):
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average(x, self.fid))], 1)


class B(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.branch3x3 = Conv(channels, 384, kernel_size=3, stride=2)
        self.branch3x3dbl_1 = Conv(channels, 64, kernel_size=1)
        self.branch3x3dbl_2 = Conv(64, 96, kernel_size=3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, kernel_size=3, stride=2)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, stride=2)], 1)


class C(nn.Module):
    def __init__(self, channels, width, fid):
        super().__init__()
        self.fid = fid
        lying, standing = {"kernel_size": (1, 7), "padding": (0, 3)}, {"kernel_size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Conv(channels, 192, kernel_size=1)
        self.branch7x7_1 = Conv(channels, width, kernel_size=1)
        self.branch7x7_2 = Conv(width, width, **lying)
        self.branch7x7_3 = Conv(width, 192, **standing)
        self.branch7x7dbl_1 = Conv(channels, width, kernel_size=1)
        self.branch7x7dbl_2 = Conv(width, width, **standing)
        self.branch7x7dbl_3 = Conv(width, width, **lying)
        self.branch7x7dbl_4 = Conv(width, width, **standing)
        self.branch7x7dbl_5 = Conv(width, 192, **lying)
        self.branch_pool = Conv(channels, 192, kernel_size=1)

    def forward(self, x):
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x, self.fid))], 1)


class D(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.branch3x3_1 = Conv(channels, 192, kernel_size=1)
        self.branch3x3_2 = Conv(192, 320, kernel_size=3, stride=2)
        self.branch7x7x3_1 = Conv(channels, 192, kernel_size=1)
        self.branch7x7x3_2 = Conv(192, 192, kernel_size=(1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, kernel_size=(7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, kernel_size=3, stride=2)

    def forward(self, x):
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, functional.max_pool2d(x, 3, stride=2)], 1)


class E(nn.Module):
    def __init__(self, channels, fid, last):
        super().__init__()
        self.fid, self.last = fid, last
        lying, standing = {"kernel_size": (1, 3), "padding": (0, 1)}, {"kernel_size": (3, 1), "padding": (1, 0)}
        self.branch1x1 = Conv(channels, 320, kernel_size=1)
        self.branch3x3_1 = Conv(channels, 384, kernel_size=1)
        self.branch3x3_2a = Conv(384, 384, **lying)
        self.branch3x3_2b = Conv(384, 384, **standing)
        self.branch3x3dbl_1 = Conv(channels, 448, kernel_size=1)
        self.branch3x3dbl_2 = Conv(448, 384, kernel_size=3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, **lying)
        self.branch3x3dbl_3b = Conv(384, 384, **standing)
        self.branch_pool = Conv(channels, 192, kernel_size=1)

    def forward(self, x):
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, 1, 1) if self.fid and self.last else average(x, self.fid)
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(parts, 1)


class InceptionV3(nn.Module):
    """`maps(x)` gives the last map; `fc` is there for its shape."""

    def __init__(self, *, fid):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = Conv(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = Conv(80, 192, kernel_size=3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32, fid), A(256, 64, fid), A(288, 64, fid)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c = C(768, 128, fid), C(768, 160, fid)
        self.Mixed_6d, self.Mixed_6e = C(768, 160, fid), C(768, 192, fid)
        self.Mixed_7a = D(768)
        self.Mixed_7b, self.Mixed_7c = E(1280, fid, last=False), E(2048, fid, last=True)
        self.fc = nn.Linear(2048, 1008 if fid else 1000)

    def maps(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x
