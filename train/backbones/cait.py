"""CaiT (Touvron et al. 2021, arXiv:2103.17239), M48, 448 px: tokens after block 41 of 48, through the norm.

There is no class token at that depth; it joins in two later blocks, which are not run.
"""

from train.backbones.backbone import IMAGENET, Backbone, HubFile, Tap
from train.backbones.layout import ConvPart, Layout
from train.backbones.position import PositionPart
from train.backbones.vit import VisionTransformer, ViTSpec, blocks_from, timm_blocks


def make_cait(name: str, spec: ViTSpec, *, published_blocks: int, image_size: int, hub: HubFile | None) -> Backbone:
    return Backbone(
        name=name,
        image_size=image_size,
        size_multiple=spec.patch,
        taps=(Tap(f"block{spec.blocks}", spec.patch, spec.width),),
        normalisation=IMAGENET,
        build=lambda image_size, rngs: VisionTransformer(spec, image_size, rngs=rngs),
        layouts=(_timm(spec, image_size // spec.patch, published_blocks),),
        hub=hub,
        only_published_size=True,
    )


def _timm(spec: ViTSpec, grid: int, published_blocks: int) -> Layout:
    later = blocks_from(spec.blocks, published_blocks)
    return Layout(
        "timm and the authors",
        {
            "patches": ConvPart("patch_embed.proj"),
            "position": PositionPart("pos_embed", grid),
            **timm_blocks(spec, ("gamma_1", "gamma_2")),
        },
        unused=rf"blocks\.{later}\..*|blocks_token_only\..*|cls_token|head\.(weight|bias)",
    )


CAIT_M48_448 = make_cait(
    "cait_m48_448",
    ViTSpec(width=768, heads=16, blocks=41, patch=16, layer_scale=True, talking_heads=True),
    published_blocks=48,
    image_size=448,
    hub=HubFile("timm/cait_m48_448.fb_dist_in1k"),
)
