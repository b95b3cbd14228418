"""Vision transformers: what DeiT, CaiT and DINOv2 have in common (Dosovitskiy et al. 2020, arXiv:2010.11929).

Shape letters: n images, t tokens, k of them keys, c channels, m heads, d channels of a head, p prefix tokens,
g x g grid of patches, h x w pixels. Tokens that are no patches (class, distillation, registers) stand first; they carry
no place of their own, so a class token is stored with its position embedding added.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.backbones.layers import Conv, Draw, Frozen, LayerNorm, Linear, drawn, filled
from train.backbones.layout import ArrayPart, LinearPart, NormPart, Part


@dataclass(frozen=True)
class ViTSpec:
    width: int
    heads: int
    blocks: int  # that are run; the published network may have more
    patch: int  # pixels
    prefixes: int = 0  # tokens that are no patches
    layer_scale: bool = False  # a trained factor per channel on what a block adds (Touvron et al. 2021, eq. 4)
    talking_heads: bool = False  # heads mix before and after the softmax (Shazeer et al. 2020)


class Attention(nnx.Module):
    """Self-attention of all tokens."""

    def __init__(self, spec: ViTSpec, *, rngs: Draw):
        self.heads = spec.heads
        self.qkv = Linear(spec.width, 3 * spec.width, rngs=rngs)
        self.projection = Linear(spec.width, spec.width, rngs=rngs)
        self.mix_before = Linear(spec.heads, spec.heads, rngs=rngs) if spec.talking_heads else None
        self.mix_after = Linear(spec.heads, spec.heads, rngs=rngs) if spec.talking_heads else None

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        n, t, c = x.shape
        q, k, v = (part.reshape(n, t, self.heads, c // self.heads) for part in jnp.split(self.qkv(x), 3, axis=-1))
        weights = jnp.einsum("ntmd,nkmd->nmtk", q * (c // self.heads) ** -0.5, k)
        if self.mix_before is not None:
            weights = _mixed(weights, self.mix_before)
        weights = jax.nn.softmax(weights, axis=-1)
        if self.mix_after is not None:
            weights = _mixed(weights, self.mix_after)
        return self.projection(jnp.einsum("nmtk,nkmd->ntmd", weights, v).reshape(n, t, c))


def _mixed(weights: Float[Array, "n m t k"], mix: Linear) -> Float[Array, "n m t k"]:
    """Every head becomes a sum of all."""
    return jnp.einsum("nmtk,mo->notk", weights, mix.kernel[...]) + mix.bias[...][:, None, None]


class Block(nnx.Module):
    """Attention, then two linear maps with GELU between them, each behind a layer norm and beside a shortcut."""

    def __init__(self, spec: ViTSpec, *, rngs: Draw):
        self.norm1 = LayerNorm(spec.width, rngs=rngs)
        self.attention = Attention(spec, rngs=rngs)
        self.norm2 = LayerNorm(spec.width, rngs=rngs)
        self.mlp_in = Linear(spec.width, 4 * spec.width, rngs=rngs)
        self.mlp_out = Linear(4 * spec.width, spec.width, rngs=rngs)
        self.scale1 = filled(rngs, spec.width, 1.0) if spec.layer_scale else None
        self.scale2 = filled(rngs, spec.width, 1.0) if spec.layer_scale else None

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        x = x + _scaled(self.attention(self.norm1(x)), self.scale1)
        return x + _scaled(self.mlp_out(gelu(self.mlp_in(self.norm2(x)))), self.scale2)


def _scaled(x: Float[Array, "n t c"], scale: Frozen | None) -> Float[Array, "n t c"]:
    return x if scale is None else x * scale[...]


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times the normal distribution function, not its tanh approximation."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


class VisionTransformer(nnx.Module):
    """Image -> patch tokens after the last block, through the network's final layer norm, as one map."""

    def __init__(self, spec: ViTSpec, image_size: int, *, rngs: Draw):
        self.grid = image_size // spec.patch
        self.patches = Conv(3, spec.width, spec.patch, stride=spec.patch, gain=1.0, rngs=rngs)
        self.position = drawn(rngs, (self.grid**2, spec.width), 1, gain=0.02**2)
        self.prefix = drawn(rngs, (spec.prefixes, spec.width), 1, gain=0.02**2) if spec.prefixes else None
        self.blocks = nnx.List([Block(spec, rngs=rngs) for _ in range(spec.blocks)])
        self.norm = LayerNorm(spec.width, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n g g c"]]:
        x = self.patches(x)
        n, _, _, c = x.shape
        x = x.reshape(n, self.grid**2, c) + self.position[...]
        prefixes = 0
        if self.prefix is not None:
            prefixes = self.prefix.shape[0]
            x = jnp.concatenate([jnp.broadcast_to(self.prefix[...], (n, prefixes, c)), x], axis=1)
        for block in self.blocks:
            x = block(x)
        return (self.norm(x[:, prefixes:]).reshape(n, self.grid, self.grid, c),)


def timm_blocks(spec: ViTSpec, scales: tuple[str, str] = ("", "")) -> dict[str, Part]:
    """Norms, linear maps and layer scales by the names that timm and the authors' own code share."""
    parts: dict[str, Part] = {"norm": NormPart("norm")}
    for index in range(spec.blocks):
        ours = theirs = f"blocks.{index}"
        parts |= {
            f"{ours}.norm1": NormPart(f"{theirs}.norm1"),
            f"{ours}.attention.qkv": LinearPart((f"{theirs}.attn.qkv",)),
            f"{ours}.attention.projection": LinearPart((f"{theirs}.attn.proj",)),
            f"{ours}.norm2": NormPart(f"{theirs}.norm2"),
            f"{ours}.mlp_in": LinearPart((f"{theirs}.mlp.fc1",)),
            f"{ours}.mlp_out": LinearPart((f"{theirs}.mlp.fc2",)),
        }
        if spec.talking_heads:
            parts[f"{ours}.attention.mix_before"] = LinearPart((f"{theirs}.attn.proj_l",))
            parts[f"{ours}.attention.mix_after"] = LinearPart((f"{theirs}.attn.proj_w",))
        if spec.layer_scale:
            parts |= {f"{ours}.scale{k + 1}": ArrayPart(f"{theirs}.{scale}") for k, scale in enumerate(scales)}
    return parts


def transformers_attention(ours: str, theirs: str) -> dict[str, Part]:
    """transformers keeps query, key and value apart."""
    inner = f"{theirs}.attention.attention"
    return {
        f"{ours}.attention.qkv": LinearPart((f"{inner}.query", f"{inner}.key", f"{inner}.value")),
        f"{ours}.attention.projection": LinearPart((f"{theirs}.attention.output.dense",)),
    }


def blocks_from(first: int, published: int) -> str:
    """Pattern of the numbers of the blocks that are not run."""
    return "(" + "|".join(str(index) for index in range(first, published)) + ")"
