"""DeiT (Touvron et al. 2020, arXiv:2012.12877), distilled, base, 384 px: tokens after block 8 of 12, through the norm.

Class and distillation token take part and are then dropped, as FastFlow's ports have it (sheet: "Backbone").
"""

from train.backbones.backbone import IMAGENET, Backbone, HubFile, Tap
from train.backbones.layout import ConvPart, Layout, LinearPart, NormPart, Part
from train.backbones.position import PositionPart, PrefixPart
from train.backbones.vit import VisionTransformer, ViTSpec, blocks_from, timm_blocks, transformers_attention


def make_deit(name: str, spec: ViTSpec, *, published_blocks: int, image_size: int, hub: HubFile | None) -> Backbone:
    grid = image_size // spec.patch
    return Backbone(
        name=name,
        image_size=image_size,
        size_multiple=spec.patch,
        taps=(Tap(f"block{spec.blocks}", spec.patch, spec.width),),
        normalisation=IMAGENET,
        build=lambda image_size, rngs: VisionTransformer(spec, image_size, rngs=rngs),
        layouts=(_timm(spec, grid, published_blocks), _transformers(spec, grid, published_blocks)),
        hub=hub,
        only_published_size=True,
    )


def _timm(spec: ViTSpec, grid: int, published_blocks: int) -> Layout:
    position = PositionPart("pos_embed", grid, leading=2)
    return Layout(
        "timm and the authors",
        {
            "patches": ConvPart("patch_embed.proj"),
            "position": position,
            "prefix": PrefixPart((("cls_token", 1), ("dist_token", 1)), position),
            **timm_blocks(spec),
        },
        unused=rf"blocks\.{blocks_from(spec.blocks, published_blocks)}\..*|head(_dist)?\.(weight|bias)",
    )


def _transformers(spec: ViTSpec, grid: int, published_blocks: int) -> Layout:
    position = PositionPart("embeddings.position_embeddings", grid, leading=2)
    parts: dict[str, Part] = {
        "patches": ConvPart("embeddings.patch_embeddings.projection"),
        "position": position,
        "prefix": PrefixPart((("embeddings.cls_token", 1), ("embeddings.distillation_token", 1)), position),
        "norm": NormPart("layernorm"),
    }
    for index in range(spec.blocks):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        parts |= transformers_attention(ours, theirs) | {
            f"{ours}.norm1": NormPart(f"{theirs}.layernorm_before"),
            f"{ours}.norm2": NormPart(f"{theirs}.layernorm_after"),
            f"{ours}.mlp_in": LinearPart((f"{theirs}.intermediate.dense",)),
            f"{ours}.mlp_out": LinearPart((f"{theirs}.output.dense",)),
        }
    later = blocks_from(spec.blocks, published_blocks)
    return Layout(
        "transformers",
        parts,
        unused=rf"encoder\.layer\.{later}\..*|(cls_|distillation_)classifier\.(weight|bias)|embeddings\.mask_token"
        r"|pooler\.dense\.(weight|bias)",
        prefixes=("deit.",),
    )


DEIT_BASE_DISTILLED_384 = make_deit(
    "deit_base_distilled_384",
    ViTSpec(width=768, heads=12, blocks=8, patch=16, prefixes=2),
    published_blocks=12,
    image_size=384,
    hub=HubFile("timm/deit_base_distilled_patch16_384.fb_in1k"),
)
