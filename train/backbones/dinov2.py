"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193) ViT-S/14 and B/14, without and with registers (arXiv:2309.16588).

FastFlow's paper has no such backbone. The tap is ours: after block 8 of 12, through the final norm, as the sheet has it
for DeiT. Other image sizes than 518 px resize the position embedding, as the authors' code does.
"""

from train.backbones.backbone import IMAGENET, Backbone, HubFile, Tap
from train.backbones.layout import ArrayPart, ConvPart, Layout, LinearPart, NormPart, Part
from train.backbones.position import PositionPart, PrefixPart, Resizing
from train.backbones.vit import VisionTransformer, ViTSpec, blocks_from, timm_blocks, transformers_attention

REGISTERS = 4


def make_dinov2(name: str, spec: ViTSpec, *, published_blocks: int, image_size: int, hub: HubFile | None) -> Backbone:
    grid = image_size // spec.patch
    resizing: Resizing = "offset" if spec.prefixes == 1 else "antialias"
    return Backbone(
        name=name,
        image_size=image_size,
        size_multiple=spec.patch,
        taps=(Tap(f"block{spec.blocks}", spec.patch, spec.width),),
        normalisation=IMAGENET,
        build=lambda image_size, rngs: VisionTransformer(spec, image_size, rngs=rngs),
        layouts=(
            *(_timm(spec, grid, published_blocks, resizing, by_timm=by_timm) for by_timm in (False, True)),
            _transformers(spec, grid, published_blocks, resizing),
        ),
        hub=hub,
    )


def _timm(spec: ViTSpec, grid: int, published_blocks: int, resizing: Resizing, *, by_timm: bool) -> Layout:
    """With registers, timm adds the class token's position to the token itself and renames the registers."""
    registers = spec.prefixes - 1
    class_is_placed = by_timm and registers > 0
    position = PositionPart("pos_embed", grid, leading=0 if class_is_placed else 1, resizing=resizing)
    tokens = [("cls_token", 1)] + [("reg_token" if by_timm else "register_tokens", registers)] * (registers > 0)
    return Layout(
        "timm" if by_timm else "the authors",
        {
            "patches": ConvPart("patch_embed.proj"),
            "position": position,
            "prefix": PrefixPart(tuple(tokens), position),
            **timm_blocks(spec, ("ls1.gamma", "ls2.gamma")),
        },
        unused=rf"blocks\.{blocks_from(spec.blocks, published_blocks)}\..*|mask_token",
    )


def _transformers(spec: ViTSpec, grid: int, published_blocks: int, resizing: Resizing) -> Layout:
    registers = spec.prefixes - 1
    position = PositionPart("embeddings.position_embeddings", grid, leading=1, resizing=resizing)
    tokens = [("embeddings.cls_token", 1)] + [("embeddings.register_tokens", registers)] * (registers > 0)
    parts: dict[str, Part] = {
        "patches": ConvPart("embeddings.patch_embeddings.projection"),
        "position": position,
        "prefix": PrefixPart(tuple(tokens), position),
        "norm": NormPart("layernorm"),
    }
    for index in range(spec.blocks):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        parts |= transformers_attention(ours, theirs) | {
            f"{ours}.norm1": NormPart(f"{theirs}.norm1"),
            f"{ours}.norm2": NormPart(f"{theirs}.norm2"),
            f"{ours}.mlp_in": LinearPart((f"{theirs}.mlp.fc1",)),
            f"{ours}.mlp_out": LinearPart((f"{theirs}.mlp.fc2",)),
            f"{ours}.scale1": ArrayPart(f"{theirs}.layer_scale1.lambda1"),
            f"{ours}.scale2": ArrayPart(f"{theirs}.layer_scale2.lambda1"),
        }
    return Layout(
        "transformers",
        parts,
        unused=rf"encoder\.layer\.{blocks_from(spec.blocks, published_blocks)}\..*|embeddings\.mask_token"
        r"|classifier\.(weight|bias)",
        prefixes=("dinov2.", "dinov2_with_registers."),
    )


def _published(name: str, width: int, heads: int, registers: int, repository: str) -> Backbone:
    spec = ViTSpec(width=width, heads=heads, blocks=8, patch=14, prefixes=1 + registers, layer_scale=True)
    return make_dinov2(name, spec, published_blocks=12, image_size=518, hub=HubFile(f"facebook/{repository}"))


DINOV2 = (
    _published("dinov2_vits14", 384, 6, 0, "dinov2-small"),
    _published("dinov2_vits14_reg", 384, 6, REGISTERS, "dinov2-with-registers-small"),
    _published("dinov2_vitb14", 768, 12, 0, "dinov2-base"),
    _published("dinov2_vitb14_reg", 768, 12, REGISTERS, "dinov2-with-registers-base"),
)
