"""Text towers: token ids -> the tokens that the denoiser attends to.

CLIP's text encoder ViT-L/14 (Radford et al. 2021, arXiv:2103.00020; sheet: "Architecture" 2), and two tables that need
no published weights (sheet: "Sizing"): words by their hash, and whole prompts by their label. Shape letters: n prompts,
t tokens, c channels.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from train.generators.adabldm.attention import Attention
from train.generators.adabldm.layers import Draw, LayerNorm, Linear, drawn

QUICK_GELU = 1.702  # CLIP's GELU is x sigmoid(1.702 x)
EMBEDDING_SPREAD = 0.02  # standard deviation of fresh embeddings, which a norm follows
# Of tables that no norm follows: tokens of deviation 1, as CLIP's last norm leaves them.
TOKEN_SPREAD = 1.0

Ids = Int[Array, "n t"]
Context = Float[Array, "n _t c"]


@dataclass(frozen=True)
class ClipSpec:
    """Sizes of a CLIP text encoder; those of ViT-L/14."""

    vocabulary: int = 49_408
    tokens: int = 77
    width: int = 768
    heads: int = 12
    layers: int = 12


@dataclass(frozen=True)
class WordSpec:
    """Sizes of a table of hashed words."""

    words: int  # rows; 0 is no word
    tokens: int
    width: int


@dataclass(frozen=True)
class LabelSpec:
    """Sizes of a table of whole prompts."""

    tokens: int  # that a prompt becomes
    width: int


class ClipLayer(nnx.Module):
    """Attention to the tokens before, then two linear maps, each behind a norm and beside a shortcut."""

    def __init__(self, spec: ClipSpec, *, rngs: Draw):
        self.norm1 = LayerNorm(spec.width, rngs=rngs)
        self.attention = Attention(spec.width, spec.width, spec.heads, bias=True, rngs=rngs)
        self.norm2 = LayerNorm(spec.width, rngs=rngs)
        self.mlp_in = Linear(spec.width, 4 * spec.width, rngs=rngs)
        self.mlp_out = Linear(4 * spec.width, spec.width, rngs=rngs)

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        y = self.norm1(x)
        x = x + self.attention(y, y, causal=True)
        y = self.mlp_in(self.norm2(x))
        return x + self.mlp_out(y * nnx.sigmoid(QUICK_GELU * y))


class ClipText(nnx.Module):
    """tau: the last layer's tokens, through the final norm."""

    def __init__(self, spec: ClipSpec, *, rngs: Draw):
        self.table = drawn(rngs, (spec.vocabulary, spec.width), EMBEDDING_SPREAD)
        self.positions = drawn(rngs, (spec.tokens, spec.width), EMBEDDING_SPREAD)
        self.layers = nnx.List([ClipLayer(spec, rngs=rngs) for _ in range(spec.layers)])
        self.norm = LayerNorm(spec.width, rngs=rngs)

    def __call__(self, ids: Ids) -> Context:
        x = _looked_up(self.table, ids) + self.positions[...]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class WordTable(nnx.Module):
    """An embedding per hashed word and one per place, added."""

    def __init__(self, spec: WordSpec, *, rngs: Draw):
        self.table = drawn(rngs, (spec.words, spec.width), TOKEN_SPREAD * 0.5**0.5)
        self.positions = drawn(rngs, (spec.tokens, spec.width), TOKEN_SPREAD * 0.5**0.5)

    def __call__(self, ids: Ids) -> Context:
        return _looked_up(self.table, ids) + self.positions[...]


class LabelTable(nnx.Module):
    """A few tokens per known prompt; label 0 is the empty one."""

    def __init__(self, spec: LabelSpec, labels: int, *, rngs: Draw):
        """`labels`: without the empty one."""
        self.spec = spec
        self.table = drawn(rngs, (labels + 1, spec.tokens * spec.width), TOKEN_SPREAD)

    def __call__(self, ids: Int[Array, "n 1"]) -> Context:
        return _looked_up(self.table, ids).reshape(ids.shape[0], self.spec.tokens, self.spec.width)


def _looked_up(table: nnx.Param, ids: Ids) -> Float[Array, "n t c"]:
    return jnp.take(table[...], ids, axis=0, mode="clip")
