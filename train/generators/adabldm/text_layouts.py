"""Key layouts of CLIP's text encoder: transformers', which the original checkpoint of Stable Diffusion uses too."""

from train.backbones.layout import Layout, parts_of
from train.generators.adabldm.published import CHECKPOINT, Leaves, Names, Published
from train.generators.adabldm.text import ClipSpec

_INSIDE = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    **{f"attention.{m}": f"self_attn.{m}_proj" for m in ("q", "k", "v", "out")},
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}


def clip_text(spec: ClipSpec) -> Published:
    def layouts(leaves: Leaves) -> tuple[Layout, ...]:
        places = {
            "table": "embeddings.token_embedding.weight",
            "positions": "embeddings.position_embedding.weight",
            **{f"layers.{n}": f"encoder.layers.{n}" for n in range(spec.layers)},
            "norm": "final_layer_norm",
        }
        parts = parts_of(leaves, Names(places, _INSIDE).key)
        unused = (
            rf"embeddings\.position_ids|(vision_model|visual_projection|text_projection)\..*|logit_scale|{CHECKPOINT}"
        )
        prefixes = ("text_model.", "cond_stage_model.transformer.text_model.")
        return (Layout("transformers", parts, unused, prefixes),)

    return Published("CLIP's text encoder", layouts)
