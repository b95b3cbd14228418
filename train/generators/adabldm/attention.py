"""Attention, and the block of a spatial transformer, which looks at the other cells and at the prompt.

Sheet: "Architecture" 3. Shape letters: n images, h x w cells, t tokens that ask, k tokens that answer, c and d
channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.generators.adabldm.layers import Draw, GroupNorm, LayerNorm, Linear

GROUP_NORM_EPSILON = 1e-6  # of the norm before a transformer; that of a residual block is another


class Attention(nnx.Module):
    """Each of t tokens becomes a mean of k values, weighted by how well query and key agree, head by head."""

    def __init__(self, width: int, context: int, heads: int, *, bias: bool, rngs: Draw):
        """`bias`: of query, key and value; the last map always has one."""
        if width % heads:
            raise ValueError(f"Attention splits its channels among its heads, but {heads} do not divide {width}.")
        self.heads = heads
        self.q = Linear(width, width, bias=bias, rngs=rngs)
        self.k = Linear(context, width, bias=bias, rngs=rngs)
        self.v = Linear(context, width, bias=bias, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "n t c"], context: Float[Array, "n k d"], *, causal: bool = False
    ) -> Float[Array, "n t c"]:
        """`causal`: a token sees those before it and itself."""
        q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in (self.q(x), self.k(context), self.v(context)))
        y: Array = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.reshape(x.shape))


class TransformerBlock(nnx.Module):
    """Attention among the cells, attention to the prompt, two linear maps: each behind a norm and beside a shortcut."""

    def __init__(self, width: int, context: int, heads: int, *, rngs: Draw):
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.among_cells = Attention(width, width, heads, bias=False, rngs=rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.to_prompt = Attention(width, context, heads, bias=False, rngs=rngs)
        self.norm3 = LayerNorm(width, rngs=rngs)
        self.mlp_in = Linear(width, 8 * width, rngs=rngs)  # 4 * width values and their gates
        self.mlp_out = Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "n t c"], context: Float[Array, "n k d"]) -> Float[Array, "n t c"]:
        y = self.norm1(x)
        x = x + self.among_cells(y, y)
        x = x + self.to_prompt(self.norm2(x), context)
        value, gate = jnp.split(self.mlp_in(self.norm3(x)), 2, axis=-1)
        return x + self.mlp_out(value * jax.nn.gelu(gate, approximate=False))


class SpatialTransformer(nnx.Module):
    """A map as a row of tokens through one block. The last linear map starts at 0: a fresh one changes nothing."""

    def __init__(self, width: int, context: int, heads: int, groups: int, *, rngs: Draw):
        self.norm = GroupNorm(width, groups, GROUP_NORM_EPSILON, rngs=rngs)
        self.proj_in = Linear(width, width, rngs=rngs)
        self.block = TransformerBlock(width, context, heads, rngs=rngs)
        self.proj_out = Linear(width, width, zero=True, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"], context: Float[Array, "n k d"]) -> Float[Array, "n h w c"]:
        n, h, w, c = x.shape
        tokens = self.block(self.proj_in(self.norm(x)).reshape(n, h * w, c), context)
        return x + self.proj_out(tokens).reshape(x.shape)
