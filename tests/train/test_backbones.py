"""Backbones as FastFlow uses them: sizes, strides, a frozen tree, random weights, any batch."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.backbones import BACKBONES, find_backbone
from train.backbones.backbone import abstract, leaf_shapes
from train.backbones.layers import Conv, Frozen, LayerNorm, max_pool
from train.backbones.pretrained import WeightsError, features, random_weights

# The sheet: "Inputs and outputs", and the weights' README for MobileNet.
SHEET = {
    "resnet18": (256, [(64, 64, 64), (32, 32, 128), (16, 16, 256)]),
    "wide_resnet50_2": (256, [(64, 64, 256), (32, 32, 512), (16, 16, 1024)]),
    "deit_base_distilled_384": (384, [(24, 24, 768)]),
    "cait_m48_448": (448, [(28, 28, 768)]),
    "mobilenet_v1_025": (224, [(56, 56, 32), (28, 28, 64), (14, 14, 128)]),
    "dinov2_vits14": (518, [(37, 37, 384)]),
    "dinov2_vits14_reg": (448, [(32, 32, 384)]),
    "dinov2_vitb14": (224, [(16, 16, 768)]),
    "dinov2_vitb14_reg": (518, [(37, 37, 768)]),
    "mini": (64, [(16, 16, 16), (8, 8, 32), (4, 4, 64)]),
}


@pytest.mark.parametrize("name", SHEET)
def test_maps_have_the_sheets_shapes_at_any_batch(name):
    size, expected = SHEET[name]
    backbone = find_backbone(name)
    (n,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, size, size, 3), jnp.uint8)
    graph, state = nnx.split(abstract(backbone, size))
    maps = jax.eval_shape(lambda state, images: features(nnx.merge(graph, state), images, backbone), state, images)
    assert [x.shape for x in maps] == [(n, *shape) for shape in expected]
    assert [(size // tap.stride, size // tap.stride, tap.channels) for tap in backbone.taps] == expected
    assert {x.dtype for x in maps} == {jnp.dtype("float32")}


def test_every_backbone_is_in_the_table_and_names_are_found():
    assert set(SHEET) == set(BACKBONES)
    assert all(backbone.name == name for name, backbone in BACKBONES.items())
    with pytest.raises(KeyError, match="resnet81 is not a backbone. Did you mean resnet18?"):
        find_backbone("resnet81")
    with pytest.raises(KeyError, match="vgg is not a backbone. There are: resnet18, wide_resnet50_2"):
        find_backbone("vgg")


def test_parameter_counts():
    """ResNet18's is the shared file's, MobileNet's by hand from its table; mini's by hand."""
    assert find_backbone("resnet18").parameter_count == 2_780_544
    widths = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128]
    pairs = sum(a * 9 + a + a * b + b for a, b in itertools.pairwise(widths))
    assert find_backbone("mobilenet_v1_025").parameter_count == 3 * 9 * 8 + 8 + pairs
    chain = (3, 8, 16, 32, 64)
    assert find_backbone("mini").parameter_count == sum(9 * a * b + b for a, b in itertools.pairwise(chain))
    assert not find_backbone("mini").pretrained
    assert find_backbone("resnet18").pretrained


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1_025", "mini"])
def test_nothing_is_left_to_train_and_evaluation_mode_changes_nothing(name):
    backbone = find_backbone(name)
    module = random_weights(backbone, 64, seed=1)
    assert not jax.tree.leaves(nnx.state(module, nnx.Param))
    held = jax.tree.leaves(nnx.state(module, Frozen))
    assert sum(x.size for x in held) == sum(math.prod(s) for s in leaf_shapes(backbone, 64).values())
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8))
    before = features(module, images, backbone)
    module.train()
    for a, b in zip(before, features(module, images, backbone), strict=True):
        np.testing.assert_array_equal(a, b)


def test_random_weights_come_from_the_seed_and_keep_the_signal_alive():
    backbone = find_backbone("mini")
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8))
    once, again, other = (features(random_weights(backbone, 64, seed), images, backbone) for seed in (3, 3, 4))
    for a, b, c in zip(once, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.allclose(a, c)
        assert 0.1 < float(a.std()) < 10


@pytest.mark.parametrize(
    ("name", "size", "near"), [("resnet18", 250, 256), ("dinov2_vits14", 256, 252), ("mini", 8, 16)]
)
def test_an_image_size_that_does_not_divide(name, size, near):
    backbone = find_backbone(name)
    with pytest.raises(
        WeightsError, match=rf"image_size is {size}, but {name} needs a multiple of .*image_size={near}\."
    ):
        random_weights(backbone, size, seed=0)


def test_images_are_normalised_per_channel():
    """An image of ImageNet's mean colour is nearly zero where the network begins."""

    class Entrance(nnx.Module):
        def __call__(self, x):
            return (x,)

    mean = np.round(np.array([0.485, 0.456, 0.406]) * 255).astype(np.uint8)
    images = jnp.asarray(np.broadcast_to(mean, (1, 16, 16, 3)))
    (x,) = features(Entrance(), images, find_backbone("resnet18"))
    assert float(jnp.abs(x).max()) < 0.01
    (x,) = features(Entrance(), jnp.stack([images[0] * 0, images[0] * 0 + 255]), find_backbone("mobilenet_v1_025"))
    np.testing.assert_array_equal(x[:, 0, 0, 0], [-1, 1])
    (x,) = features(Entrance(), images * 0 + 255, find_backbone("resnet18"))
    np.testing.assert_allclose(x[0, 0, 0], [2.2489, 2.4286, 2.64], atol=1e-4)


def test_strided_convolutions_pad_as_told():
    """One on every side at stride 2: the first window is centred on the first pixel, which SAME would not do."""
    conv = Conv(1, 1, 3, stride=2, padding=1, rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(conv(x)[0, :, :, 0], [[0, 2], [8, 10]])
    conv.padding = (0, 1)
    np.testing.assert_array_equal(conv(x)[0, :, :, 0], [[5, 7], [13, 15]])


def test_the_border_never_wins_in_max_pooling():
    x = -jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_layer_norm_is_exact_for_large_offsets():
    x = 1000 + jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 64)), jnp.float32)
    expected = np.asarray(x, np.float64)
    expected = (expected - expected.mean(-1, keepdims=True)) / np.sqrt(expected.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(LayerNorm(64, rngs=nnx.Rngs(0))(x), expected, atol=1e-3)
