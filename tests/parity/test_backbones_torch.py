"""Backbones against PyTorch: files with random weights go through `load_pretrained`, features are compared.

transformers for ResNet, DeiT and DINOv2; plain PyTorch of our own for WideResNet50-2, CaiT, MobileNet and for the keys
of torchvision, timm and the authors. References run in float64, with less width and depth where that changes no code.
"""

import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from train.backbones import find_backbone
from train.backbones.backbone import leaf_shapes
from train.backbones.cait import make_cait
from train.backbones.deit import make_deit
from train.backbones.dinov2 import make_dinov2
from train.backbones.mobilenet import MOBILENET_V1_025
from train.backbones.position import resized
from train.backbones.pretrained import features, load_pretrained
from train.backbones.resnet import RESNET18, ResNetSpec, make_resnet
from train.backbones.vit import ViTSpec
from train.backbones.wide_resnet import WideBottleneck

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402
import torch_networks as plain  # noqa: E402

pytestmark = pytest.mark.parity

SMALL_DEIT = make_deit(
    "small_deit", ViTSpec(24, heads=3, blocks=2, patch=16, prefixes=2), published_blocks=3, image_size=64, hub=None
)
SMALL_CAIT = make_cait(
    "small_cait",
    ViTSpec(24, heads=4, blocks=3, patch=16, layer_scale=True, talking_heads=True),
    published_blocks=5,
    image_size=64,
    hub=None,
)
SMALL_WIDE_RESNET = make_resnet(
    "small_wide_resnet", ResNetSpec((2, 2, 1), (8, 16, 32), 16, WideBottleneck), image_size=64, hub=None
)


def small_dinov2(registers: int):
    spec = ViTSpec(24, heads=3, blocks=2, patch=14, prefixes=1 + registers, layer_scale=True)
    return make_dinov2("small_dinov2", spec, published_blocks=3, image_size=98, hub=None)


def drawn_images(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def normalised(images: np.ndarray, backbone) -> "torch.Tensor":
    mean, std = (np.array(v) for v in (backbone.normalisation.mean, backbone.normalisation.std))
    return torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2))


def assert_same(backbone, path, size: int, reference) -> None:
    """Every tap within 1e-4 of the reference's largest feature, and within 1e-3 of each that is not tiny."""
    images = drawn_images(size)
    ours = features(load_pretrained(backbone, path, size), jnp.asarray(images), backbone)
    with torch.no_grad():
        theirs = [x.numpy().transpose(0, 2, 3, 1) for x in reference(normalised(images, backbone))]
    assert len(ours) == len(theirs) == len(backbone.taps)
    for tap, a, b in zip(backbone.taps, ours, theirs, strict=True):
        assert a.shape == b.shape == (2, size // tap.stride, size // tap.stride, tap.channels)
        assert b.std() > 0.05 * np.abs(b).max()  # a constant would prove nothing
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(), err_msg=tap.name)


def saved(network, tmp_path):
    """A safetensors file of float32; the network goes on in float64."""
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return path, network.double()


def test_resnet18_of_torchvision(tmp_path):
    path, network = saved(plain.shaken(plain.ResNet(plain.BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)), 0), tmp_path)
    assert_same(RESNET18, path, 64, network.maps)


def test_wide_resnet(tmp_path):
    network = plain.ResNet(plain.WideBottleneck, (2, 2, 1, 1), (8, 16, 32, 64), stem=16)
    path, network = saved(plain.shaken(network, 1), tmp_path)
    assert_same(SMALL_WIDE_RESNET, path, 64, network.maps)


def test_mobilenet(tmp_path):
    path, network = saved(plain.shaken(plain.MobileNet(8, (3, 5, 11)), 2), tmp_path)
    assert_same(MOBILENET_V1_025, path, 64, network.maps)


def test_deit_of_timm(tmp_path):
    path, network = saved(plain.shaken(plain.DeiT(24, 3, 3, grid=4), 3), tmp_path)
    assert_same(SMALL_DEIT, path, 64, lambda x: network.maps(x, 2))


def test_cait(tmp_path):
    path, network = saved(plain.shaken(plain.CaiT(24, 4, 5, grid=4), 4), tmp_path)
    assert_same(SMALL_CAIT, path, 64, lambda x: network.maps(x, 3))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", [98, 56, 140])
def test_dinov2_of_the_authors_at_its_own_and_other_sizes(tmp_path, registers, size):
    network = plain.shaken(plain.DINOv2(24, 3, 3, grid=7, registers=registers), 5)
    path, network = saved(network, tmp_path)
    assert_same(small_dinov2(registers), path, size, lambda x: network.maps(x, 2))


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_as_timm_renames_it(tmp_path, registers):
    network = plain.shaken(plain.DINOv2(24, 3, 3, grid=7, registers=registers), 6)
    state = network.state_dict()
    del state["mask_token"]
    if registers:  # timm's conversion: the class token takes its position along
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    safetensors.torch.save_file(state, tmp_path / "timm.safetensors")
    network.double()
    for size in (98, 126):
        assert_same(small_dinov2(registers), tmp_path / "timm.safetensors", size, lambda x: network.maps(x, 2))


@pytest.mark.parametrize("side", [16, 24, 32, 36, 38, 64])
@pytest.mark.parametrize("registers", [False, True])
def test_position_embeddings_are_resized_as_published(side, registers):
    square = torch.from_numpy(np.random.default_rng(side).standard_normal((1, 5, 37, 37)))
    expected = plain.resize_position(square, side, registers=registers)
    found = resized(square[0].permute(1, 2, 0).flatten(0, 1).numpy(), side, "antialias" if registers else "offset")
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).flatten(0, 1), atol=1e-6)


class TestTransformers:
    """Models built from a configuration; nothing is fetched."""

    @pytest.fixture
    def library(self):
        return pytest.importorskip("transformers")

    @pytest.mark.parametrize("head", [False, True])
    def test_resnet18(self, tmp_path, library, head):
        config = library.ResNetConfig(
            embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
        )
        model = plain.shaken((library.ResNetForImageClassification if head else library.ResNetModel)(config), 7)
        model.save_pretrained(tmp_path)
        model.double()
        assert_same(RESNET18, tmp_path / "model.safetensors", 64, lambda x: hidden_states(model, x)[1:4])

    @pytest.mark.parametrize("head", [False, True])
    def test_deit(self, tmp_path, library, head):
        config = library.DeiTConfig(
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=96,
            image_size=64,
            layer_norm_eps=1e-6,  # the authors' and timm's
        )
        kind = library.DeiTForImageClassificationWithTeacher if head else library.DeiTModel
        model = plain.shaken(kind(config), 8)
        model.save_pretrained(tmp_path)
        model.double()
        norm = model.deit.layernorm if head else model.layernorm
        assert_same(
            SMALL_DEIT,
            tmp_path / "model.safetensors",
            64,
            lambda x: [plain.as_map(norm(hidden_states(model, x)[2])[:, 2:], 4)],
        )

    @pytest.mark.parametrize(("registers", "size"), [(0, 98), (4, 98), (4, 56)])  # see PositionPart for 0 and 56
    def test_dinov2(self, tmp_path, library, registers, size):
        settings = {
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": 98,
            "patch_size": 14,
        }
        if registers:
            config = library.Dinov2WithRegistersConfig(num_register_tokens=registers, **settings)
            model = library.Dinov2WithRegistersModel(config)
        else:
            model = library.Dinov2Model(library.Dinov2Config(**settings))
        plain.shaken(model, 9)
        model.save_pretrained(tmp_path)
        model.double()
        first = 1 + registers
        assert_same(
            small_dinov2(registers),
            tmp_path / "model.safetensors",
            size,
            lambda x: [plain.as_map(model.layernorm(hidden_states(model, x)[2])[:, first:], size // 14)],
        )


def hidden_states(model, x):
    return model(pixel_values=x, output_hidden_states=True).hidden_states


PUBLISHED = {
    # The network at full size, and its trained numbers in millions as torchvision's and timm's tables give them.
    "resnet18": (lambda: plain.ResNet(plain.BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)), 11.689512),
    "wide_resnet50_2": (lambda: plain.ResNet(plain.WideBottleneck, (3, 4, 6, 3), (64, 128, 256, 512)), 68.88324),
    "deit_base_distilled_384": (lambda: plain.DeiT(768, 12, 12, grid=24), 87.63),
    "cait_m48_448": (lambda: plain.CaiT(768, 16, 48, grid=28), 356.46),
    "dinov2_vits14": (lambda: plain.DINOv2(384, 6, 12, grid=37, registers=0), 22.06),
    "dinov2_vits14_reg": (lambda: plain.DINOv2(384, 6, 12, grid=37, registers=4), 22.06),
    "dinov2_vitb14": (lambda: plain.DINOv2(768, 12, 12, grid=37, registers=0), 86.58),
    "dinov2_vitb14_reg": (lambda: plain.DINOv2(768, 12, 12, grid=37, registers=4), 86.58),
    "mobilenet_v1_025": (lambda: plain.MobileNet(8, (3, 5, 11)), 0.467336),  # batch norm folded, as the file has it
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_counts_are_the_published_ones(name):
    """Full size, without a number in memory: every key is read or known to be unneeded, in its shape."""
    make, millions = PUBLISHED[name]
    with torch.device("meta"):
        network = make()
    published = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    decimals = len(str(millions).split(".")[1])
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, decimals) == millions
    backbone = find_backbone(name)
    layout = backbone.layouts[0]
    used = layout.published(leaf_shapes(backbone, backbone.image_size))
    assert used.items() <= published.items()
    assert [key for key in published if key not in used and not layout.ignores(key)] == []
    assert [key for key in used if layout.ignores(key)] == []


def test_the_parts_that_are_used_have_as_many_numbers_as_ours():
    """A batch norm's two trained numbers become one bias; a class token and its position become one."""
    folded = {"resnet18": 2_240, "wide_resnet50_2": 19_776, "mobilenet_v1_025": 0, "cait_m48_448": 0}
    for name, saved_numbers in folded.items():
        backbone = find_backbone(name)
        shapes = backbone.layouts[0].published(leaf_shapes(backbone, backbone.image_size))
        used = sum(math.prod(shape) for key, shape in shapes.items() if not re.search("running_", key))
        assert used - backbone.parameter_count == saved_numbers
