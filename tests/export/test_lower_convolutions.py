"""Convolutions and pooling windows equal JAX's: padding on each side, strides, dilations, groups."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import assume, given
from hypothesis import strategies as st
from jax import lax
from onnx_against_jax import channels_first, check, few, operations

from export.lower import InputSpec, LoweringError, lower

NHWC = ("NHWC", "HWIO", "NHWC")


def kernel_of(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


pads = st.tuples(st.integers(-1, 3), st.integers(-1, 3))


@few
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    window=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(pads, pads),
    groups=st.integers(1, 2),
)
def test_convolution_with_any_padding(size, window, strides, dilation, padding, groups):
    reach = [(n - 1) * d + 1 for n, d in zip(window, dilation, strict=True)]
    assume(all(n + sum(p) >= r and n > 2 for n, p, r in zip(size, padding, reach, strict=True)))
    kernel = kernel_of(*window, 4 // groups, 6)

    def function(x):
        return lax.conv_general_dilated(
            x, kernel, strides, padding, None, dilation, dimension_numbers=NHWC, feature_group_count=groups
        )

    check(function, (*size, 4), proves="conv_general_dilated", tolerance=5e-6)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("window", [2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_uneven_where_tensorflow_makes_it_so(size, window, stride):
    """A 5x5 kernel at stride 2 on an even size pads 1 before and 2 behind, not 2 and 2."""
    kernel = kernel_of(window, window, 2, 3)

    def function(x):
        return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=NHWC)

    model = check(function, (size, size, 2), tolerance=5e-6)
    if (size, window, stride) == (8, 5, 2):
        (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
        assert next(list(a.ints) for a in conv.attribute if a.name == "pads") == [1, 1, 2, 2]


@pytest.mark.parametrize("numbers", [("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "NCHW"), ("HWNC", "HWIO", "CHNW")])
def test_dimension_numbers(numbers):
    shape = {"NCHW": (3, 6, 5), "NHWC": (6, 5, 3), "HWNC": (6, 5, 3)}[numbers[0]]

    def function(x):
        x = jnp.transpose(x, (1, 2, 0, 3)) if numbers[0] == "HWNC" else x
        kernel = kernel_of(4, 3, 3, 3) if numbers[1] == "OIHW" else kernel_of(3, 3, 3, 4)
        return lax.conv_general_dilated(x, kernel, (1, 2), "VALID", dimension_numbers=numbers)

    check(function, shape, tolerance=5e-6)


def test_convolution_of_one_and_three_spatial_axes():
    def line(x):
        return lax.conv_general_dilated(x, kernel_of(3, 2, 4), (2,), [(1, 0)], dimension_numbers=("NWC", "WIO", "NWC"))

    def volume(x):
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_general_dilated(x, kernel_of(2, 3, 1, 2, 4), (1, 2, 1), "SAME", dimension_numbers=numbers)

    check(line, (7, 2), tolerance=5e-6)
    check(volume, (4, 5, 3, 2), tolerance=5e-6)


def test_a_kernel_made_from_the_image():
    def function(x):
        kernel = jnp.mean(x, axis=0)[:, :, None, :] * jnp.ones((3, 3, 2, 2))
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)

    check(function, (3, 3, 2), tolerance=5e-6)


@few
@given(
    size=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    window=st.integers(1, 5),
    strides=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    padding=st.sampled_from(["SAME", "VALID", ((1, 2), (2, 1)), ((4, 5), (5, 4))]),
    groups=st.integers(1, 2),
)
def test_transposed_convolution(size, window, strides, padding, groups):
    """An input dilated by the stride: ONNX flips the kernel and states what to cut instead of what to pad."""
    kernel = kernel_of(window, window, 4 // groups, 6)

    def function(x):
        if groups == 1:
            return lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=NHWC)
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((window - 1, window - 1), (window - 1, window)),
            strides,
            dimension_numbers=NHWC,
            feature_group_count=groups,
        )

    if isinstance(padding, tuple) and groups == 1:
        reach = window - 1
        over = [max(p - reach, 0) for p in (padding[0][0], padding[1][0])]
        behind = [p[1] - reach - s + 1 for p, s in zip(padding, strides, strict=True)]
        if max(over) > 0 or max(behind) > 0:
            with pytest.raises(LoweringError, match="reaches beyond its kernel; pad the input instead"):
                check(function, (*size, 4))
            return
    model = check(function, (*size, 4), tolerance=5e-6)
    assert operations(model)["ConvTranspose"] == 1


def test_what_a_convolution_can_not_be():
    def grouped_batch(x):
        x = x.reshape(2, 3, 3, 2)
        return lax.conv_general_dilated(
            x, kernel_of(3, 3, 2, 2), (1, 1), "SAME", dimension_numbers=NHWC, batch_group_count=2
        )

    def strided_twice(x):
        pads = ((1, 1), (1, 1))
        return lax.conv_general_dilated(x, kernel_of(3, 3, 2, 2), (2, 2), pads, (2, 2), dimension_numbers=NHWC)

    with pytest.raises(LoweringError, match="both strided and transposed is not lowered"):
        check(strided_twice, (4, 4, 2))
    with pytest.raises(LoweringError, match="batch_group_count is not lowered; use feature_group_count"):
        lower(grouped_batch, {"x": InputSpec((36,), np.float32)}, ["y"])


WINDOWS = {"reduce_window_max": nnx.max_pool, "reduce_window_min": nnx.min_pool, "reduce_window_sum": nnx.avg_pool}


@pytest.mark.parametrize("primitive", WINDOWS)
@few
@given(
    size=st.tuples(st.integers(4, 8), st.integers(4, 8)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID", "explicit"]),
    seed=st.integers(0, 99),
)
def test_pooling_with_any_padding(primitive, size, window, strides, padding, seed):
    """Padding must not win: the inputs are negative for max, positive for min."""
    generator = np.random.default_rng(seed)
    if padding == "explicit":
        padding = tuple((int(generator.integers(0, n)), int(generator.integers(0, n))) for n in window)

    def function(x):
        x = -jnp.abs(x) - 1 if primitive == "reduce_window_max" else jnp.abs(x) + 1
        return WINDOWS[primitive](channels_first(x), window, strides=strides, padding=padding)

    check(function, (*size, 3), proves=primitive if window != (1, 1) else None, tolerance=5e-6)


def test_the_stem_of_a_resnet_keeps_its_padding():
    """jax2onnx drops it and gives 15 x 15."""
    model = check(lambda x: nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))), (31, 31, 2))
    assert operations(model)["MaxPool"] == 1


def test_average_that_does_not_count_the_padding():
    def function(x):
        return nnx.avg_pool(channels_first(x), (3, 3), strides=(2, 2), padding="SAME", count_include_pad=False)

    check(function, (6, 5, 2), tolerance=5e-6)


def test_pooling_along_one_axis_and_of_rank_three():
    check(lambda x: nnx.max_pool(x, (3,), strides=(2,), padding="SAME"), (9, 2))
    check(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 1), (1, 1, 2, 1), "SAME"), (4, 7, 2))


def test_dilated_max_window():
    def function(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", window_dilation=(1, 2, 3, 1)
        )

    check(function, (6, 7, 2), proves="reduce_window_max")


@pytest.mark.parametrize(
    ("window", "padding", "text"),
    [
        ((1, 2, 2, 2), "VALID", "over the batch or the channels is not lowered"),
        ((1, 2, 2, 1), ((0, 0), (2, 0), (0, 0), (0, 0)), "it must be smaller than the window"),
    ],
)
def test_what_a_window_can_not_be(window, padding, text):
    with pytest.raises(LoweringError, match=text):
        check(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 1, 1, 1), padding), (4, 4, 2))
