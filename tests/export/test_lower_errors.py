"""What can't be lowered is named, with its place in the model and what to do."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from export.lower import InputSpec, LoweringError, lower, lowered_primitives

IMAGE = {"image": InputSpec(("batch", 4, 4, 3), np.float32)}


def refusal(function, inputs=IMAGE, outputs=("y",)) -> str:
    with pytest.raises(LoweringError) as error:
        lower(function, inputs, outputs)
    return str(error.value)


class Solver(nnx.Module):
    def __call__(self, x):
        return jnp.linalg.cholesky(x[:, :3, :3, 0])


class Detector(nnx.Module):
    def __init__(self):
        self.solver = Solver()

    def __call__(self, x):
        with jax.named_scope("score"):
            return self.solver(x)


def test_an_unknown_operation_is_named_with_file_line_function_and_scope():
    text = refusal(Detector())
    line = next(n for n, code in enumerate(Path(__file__).read_text().splitlines(), 1) if "linalg.cholesky(x" in code)
    assert text.startswith(f"{__file__}:{line}, in Solver.__call__")
    assert "scope score" in text
    assert "the operation 'cholesky' can't be exported: it has no ONNX form here" in text
    assert "docs/export.md lists" in text


def test_the_place_is_the_models_line_not_the_librarys():
    class Normed(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 3, (3, 3), padding="CIRCULAR", rngs=nnx.Rngs(0), dtype=jnp.bfloat16)

        def __call__(self, x):
            return self.conv(x)

    text = refusal(Normed())
    assert re.search(
        r"test_lower_errors\.py:\d+, in test_.*Normed\.__call__ \(through Conv\.__call__ of linear\.py:\d+\)", text
    )
    assert "bfloat16 values are not lowered (known: bool, float32, int32" in text


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: lax.scan(lambda c, _: (c + x, None), x, None, length=3)[0], "write the loop in Python, or give"),
        (lambda x: lax.while_loop(lambda v: jnp.sum(v) < 9, lambda v: v + 1, x), "write the loop in Python, with"),
        (lambda x: lax.cond(jnp.sum(x) > 0, jnp.sin, jnp.cos, x), "compute both and choose with jnp.where"),
        (lambda x: x.at[:, 0].set(1.0), "jnp.where instead of .at"),
        (lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x), "can't be shipped"),
        (lambda x: x.astype(jnp.uint8) + jnp.uint8(1), "arithmetic on uint8 is not lowered, because engines differ"),
        (lambda x: jnp.sort(x, axis=0), "sorting along the batch is not lowered"),
        (lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]), "padding between the elements"),
        (
            lambda x: jnp.concatenate([x, jnp.ones((1, 4, 4, 3))]).reshape(-1),
            "a size of batch + 1 is not a multiple of the batch",
        ),
    ],
)
def test_refusals_say_what_to_do(function, text):
    found = refusal(function)
    assert text in found
    assert found.startswith(__file__)
    assert found.endswith(".")


def test_64_bit_numbers_never_leak_in():
    with jax.enable_x64(True):
        text = refusal(lambda x: x.astype(jnp.float64) * 2)
    assert "float64 values are not lowered" in text
    assert "turn jax_enable_x64 off" in text


def test_wrong_requests():
    assert refusal(lambda x: (x, x)) == "The function returns 2 arrays, but 1 outputs are named."
    two = {"x": InputSpec(("n", 2), np.float32), "y": InputSpec(("m", 2), np.float32)}
    assert refusal(lambda x, y: (x, y), two) == "Only one size can be left open, but the inputs leave m, n open."


def test_every_primitive_with_a_rule_is_tested_against_jax():
    """A rule without a test is a guess: each must be named by some proves=..., or by a table that feeds one."""
    here = Path(__file__).parent
    text = "".join(path.read_text() for path in here.glob("test_lower_*.py") if path != Path(__file__))
    untested = [name for name in lowered_primitives() if not re.search(rf'"{name}"', text)]
    assert untested == []


def test_docs_list_what_is_lowered():
    docs = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    missing = [name for name in lowered_primitives() if f"`{name}`" not in docs]
    assert missing == []
