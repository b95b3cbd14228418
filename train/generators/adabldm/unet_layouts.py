"""Key layouts of Stable Diffusion's U-Net and of ControlNet: diffusers' and the original checkpoint's.

The original numbers what the way down and up consist of; diffusers numbers levels.
"""

from train.backbones.layout import Layout, parts_of
from train.generators.adabldm.published import CHECKPOINT, Leaves, Names, Published
from train.generators.adabldm.trimap import TrimapSpec
from train.generators.adabldm.unet import UNetSpec

# Inside a spatial transformer both call everything alike.
_TRANSFORMER = {
    f"block.{ours}": f"transformer_blocks.0.{theirs}"
    for ours, theirs in {
        **{f"norm{n}": f"norm{n}" for n in (1, 2, 3)},
        **{f"among_cells.{m}": f"attn1.to_{m}" for m in "qkv"},
        **{f"to_prompt.{m}": f"attn2.to_{m}" for m in "qkv"},
        "among_cells.out": "attn1.to_out.0",
        "to_prompt.out": "attn2.to_out.0",
        "mlp_in": "ff.net.0.proj",
        "mlp_out": "ff.net.2",
    }.items()
}
_DIFFUSERS = _TRANSFORMER | {"time": "time_emb_proj", "shortcut": "conv_shortcut"}
_ORIGINAL = _TRANSFORMER | {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
}
_AS_CONV = r".*\.proj_(in|out)"  # 1 x 1 convolutions until Stable Diffusion 2


def denoiser(spec: UNetSpec) -> Published:
    def layouts(leaves: Leaves) -> tuple[Layout, ...]:
        diffusers, original = Names(_diffusers(spec), _DIFFUSERS), Names(_original(spec), _ORIGINAL)
        return (
            Layout("diffusers", parts_of(leaves, diffusers.key, _AS_CONV), unused=""),
            Layout(
                "original",
                parts_of(leaves, original.key, _AS_CONV),
                unused=CHECKPOINT,
                prefixes=("model.diffusion_model.",),
            ),
        )

    return Published("the denoiser", layouts)


def trimap_encoder(spec: UNetSpec, trimap: TrimapSpec) -> Published:
    """As ControlNets are published."""
    embedding_convs = 2 * len(trimap.widths) - 1

    def layouts(leaves: Leaves) -> tuple[Layout, ...]:
        skips, last = range(len(spec.skip_widths)), embedding_convs - 1
        diffusers = Names(
            {
                **_diffusers(spec),
                "embedding.convs.0": "controlnet_cond_embedding.conv_in",
                **{f"embedding.convs.{n + 1}": f"controlnet_cond_embedding.blocks.{n}" for n in range(last)},
                "embedding.conv_out": "controlnet_cond_embedding.conv_out",
                **{f"zero_skips.{n}": f"controlnet_down_blocks.{n}" for n in skips},
                "zero_middle": "controlnet_mid_block",
            },
            _DIFFUSERS,
        )
        original = Names(
            {
                **_original(spec),
                **{f"embedding.convs.{n}": f"input_hint_block.{2 * n}" for n in range(embedding_convs)},
                "embedding.conv_out": f"input_hint_block.{2 * embedding_convs}",
                **{f"zero_skips.{n}": f"zero_convs.{n}.0" for n in skips},
                "zero_middle": "middle_block_out.0",
            },
            _ORIGINAL,
        )
        return (
            Layout("diffusers", parts_of(leaves, diffusers.key, _AS_CONV), unused=""),
            Layout(
                "original", parts_of(leaves, original.key, _AS_CONV), unused=CHECKPOINT, prefixes=("control_model.",)
            ),
        )

    return Published("the trimap encoder", layouts)


def _diffusers(spec: UNetSpec) -> dict[str, str]:
    places = {
        "encoder.conv_in": "conv_in",
        "encoder.time_in": "time_embedding.linear_1",
        "encoder.time_out": "time_embedding.linear_2",
        "encoder.middle.residual1": "mid_block.resnets.0",
        "encoder.middle.transformer": "mid_block.attentions.0",
        "encoder.middle.residual2": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }
    for level in range(len(spec.multipliers)):
        places[f"encoder.shrinks.{level}"] = f"down_blocks.{level}.downsamplers.0"
        places[f"grows.{level}"] = f"up_blocks.{level}.upsamplers.0"
        for index in range(spec.residual_blocks + 1):
            for ours, theirs in (
                (f"encoder.down.{level}", f"down_blocks.{level}"),
                (f"up.{level}", f"up_blocks.{level}"),
            ):
                places[f"{ours}.residuals.{index}"] = f"{theirs}.resnets.{index}"
                places[f"{ours}.transformers.{index}"] = f"{theirs}.attentions.{index}"
    return places


def _original(spec: UNetSpec) -> dict[str, str]:
    levels, blocks = len(spec.multipliers), spec.residual_blocks
    places = {
        "encoder.conv_in": "input_blocks.0.0",
        "encoder.time_in": "time_embed.0",
        "encoder.time_out": "time_embed.2",
        "encoder.middle.residual1": "middle_block.0",
        "encoder.middle.transformer": "middle_block.1",
        "encoder.middle.residual2": "middle_block.2",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }
    for level in range(levels):
        for index in range(blocks):
            number = 1 + level * (blocks + 1) + index
            places[f"encoder.down.{level}.residuals.{index}"] = f"input_blocks.{number}.0"
            places[f"encoder.down.{level}.transformers.{index}"] = f"input_blocks.{number}.1"
        places[f"encoder.shrinks.{level}.conv"] = f"input_blocks.{(level + 1) * (blocks + 1)}.0.op"
        for index in range(blocks + 1):
            number = level * (blocks + 1) + index
            places[f"up.{level}.residuals.{index}"] = f"output_blocks.{number}.0"
            places[f"up.{level}.transformers.{index}"] = f"output_blocks.{number}.1"
        after = 2 if spec.transformers[::-1][level] else 1
        places[f"grows.{level}"] = f"output_blocks.{level * (blocks + 1) + blocks}.{after}"
    return places
