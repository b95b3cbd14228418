"""Key layouts of the autoencoders: diffusers' of today and of 2022, the original checkpoints', TAESD's own.

A half is read alone, from a file of its own or from one that holds the other half too.
"""

from typing import Literal

from train.backbones.layout import Layout, parts_of
from train.generators.adabldm.autoencoder import KLSpec
from train.generators.adabldm.published import CHECKPOINT, Leaves, Names, Published
from train.generators.adabldm.tiny_autoencoder import BLOCKS, HALVINGS, TinySpec

Half = Literal["encoder", "decoder"]

_ATTENTION_NOW = {"norm": "group_norm", **{f"attention.{m}": f"to_{m}" for m in "qkv"}, "attention.out": "to_out.0"}
_ATTENTION_2022 = {
    "norm": "group_norm",
    **{f"attention.{m}": name for m, name in zip("qkv", ("query", "key", "value"), strict=True)},
    "attention.out": "proj_attn",
}
_ATTENTION_ORIGINAL = {**{f"attention.{m}": m for m in "qkv"}, "attention.out": "proj_out"}
_AS_CONV = r"middle\.attention\.attention\.\w+"  # in the original


def kl_half(spec: KLSpec, half: Half) -> Published:
    """The half of Stable Diffusion's autoencoder, its 1 x 1 convolution at the latent included."""

    def layouts(leaves: Leaves) -> tuple[Layout, ...]:
        places = _diffusers(spec, half)
        other = r"decoder\..*|post_quant_conv\..*" if half == "encoder" else r"encoder\..*|quant_conv\..*"
        shortcut = {"shortcut": "conv_shortcut"}
        now, then = (Names(places, names | shortcut) for names in (_ATTENTION_NOW, _ATTENTION_2022))
        original = Names(_original(spec, half), _ATTENTION_ORIGINAL | {"shortcut": "nin_shortcut"})
        return (
            Layout("diffusers", parts_of(leaves, now.key), other),
            Layout("diffusers of 2022", parts_of(leaves, then.key), other),
            Layout(
                "original",
                parts_of(leaves, original.key, _AS_CONV),
                rf"{other}|loss\..*|{CHECKPOINT}",
                ("first_stage_model.",),
            ),
        )

    return Published(f"the {half} of Stable Diffusion's autoencoder", layouts)


def _diffusers(spec: KLSpec, half: Half) -> dict[str, str]:
    places = {
        "conv_in": f"{half}.conv_in",
        "middle.residual1": f"{half}.mid_block.resnets.0",
        "middle.attention": f"{half}.mid_block.attentions.0",
        "middle.residual2": f"{half}.mid_block.resnets.1",
        "norm_out": f"{half}.conv_norm_out",
        "conv_out": f"{half}.conv_out",
        "to_moments": "quant_conv",
        "from_latent": "post_quant_conv",
    }
    for level in range(len(spec.multipliers)):
        places[f"shrinks.{level}"] = f"encoder.down_blocks.{level}.downsamplers.0"
        places[f"grows.{level}"] = f"decoder.up_blocks.{level}.upsamplers.0"
        for index in range(spec.residual_blocks + 1):
            places[f"down.{level}.{index}"] = f"encoder.down_blocks.{level}.resnets.{index}"
            places[f"up.{level}.{index}"] = f"decoder.up_blocks.{level}.resnets.{index}"
    return places


def _original(spec: KLSpec, half: Half) -> dict[str, str]:
    """The original numbers the decoder's levels from the largest map."""
    places = {
        "conv_in": f"{half}.conv_in",
        "middle.residual1": f"{half}.mid.block_1",
        "middle.attention": f"{half}.mid.attn_1",
        "middle.residual2": f"{half}.mid.block_2",
        "norm_out": f"{half}.norm_out",
        "conv_out": f"{half}.conv_out",
        "to_moments": "quant_conv",
        "from_latent": "post_quant_conv",
    }
    last = len(spec.multipliers) - 1
    for level in range(last + 1):
        places[f"shrinks.{level}"] = f"encoder.down.{level}.downsample"
        places[f"grows.{level}"] = f"decoder.up.{last - level}.upsample"
        for index in range(spec.residual_blocks + 1):
            places[f"down.{level}.{index}"] = f"encoder.down.{level}.block.{index}"
            places[f"up.{level}.{index}"] = f"decoder.up.{last - level}.block.{index}"
    return places


def tiny_half(spec: TinySpec, half: Half) -> Published:
    """A half of the TAESD family: the authors' files hold one each, diffusers' both."""

    def layouts(leaves: Leaves) -> tuple[Layout, ...]:
        # In a sequence the decoder starts with a clamp and a convolution; diffusers has the clamp outside of it.
        numbers = _numbers(half)
        own = Names(numbers, _TINY)
        shift = int(half == "decoder")
        listed = Names({ours: str(int(number) - shift) for ours, number in numbers.items()}, _TINY)
        other = "decoder" if half == "encoder" else "encoder"
        return (
            Layout("TAESD", parts_of(leaves, own.key), unused=""),
            Layout("diffusers", parts_of(leaves, listed.key), rf"{other}\.layers\..*", (f"{half}.layers.",)),
        )

    name = "TAESD" if spec.latent_channels == 4 else f"the TAESD family with {spec.latent_channels} latent channels"
    return Published(f"the {half} of {name}", layouts)


_TINY = {
    **{f"convs.{n}": f"conv.{2 * n}" for n in range(3)},
    "pool.widen": "pool.0",
    "pool.norm": "pool.1",
    "pool.narrow": "pool.3",
}


def _numbers(half: Half) -> dict[str, str]:
    """Path of ours -> place in the sequence."""
    if half == "encoder":
        order = ["conv_in", "first"]
        for level in range(HALVINGS):
            order += [f"shrinks.{level}", *[f"levels.{level}.{index}" for index in range(BLOCKS)]]
    else:
        order = ["clamp", "conv_in", "relu"]
        for level in range(HALVINGS):
            order += [*[f"levels.{level}.{index}" for index in range(BLOCKS)], "doubled", f"grows.{level}"]
        order.append("last")
    return {path: str(number) for number, path in enumerate([*order, "conv_out"])}
