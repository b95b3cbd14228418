"""Published files: every layout gives the same network, and a file that doesn't fit is refused by a sentence."""

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from weight_files import drawn_state, write_safetensors, write_torch

from train.backbones import find_backbone
from train.backbones.backbone import dotted
from train.backbones.deit import make_deit
from train.backbones.dinov2 import make_dinov2
from train.backbones.pretrained import (
    WeightsError,
    features,
    find_weights,
    load_pretrained,
    random_weights,
    restore_backbone,
    save_backbone,
)
from train.backbones.resnet import BasicBlock, ResNetSpec, make_resnet
from train.backbones.vit import ViTSpec
from train.backbones.wide_resnet import WideBottleneck

RESNET18, MOBILENET, MINI = (find_backbone(name) for name in ("resnet18", "mobilenet_v1_025", "mini"))
SMALL_RESNET = make_resnet("small_resnet", ResNetSpec((1, 1, 1), (4, 8, 8), 4, BasicBlock), image_size=32, hub=None)
SMALL_WIDE = make_resnet("small_wide", ResNetSpec((1, 1, 1), (4, 4, 4), 4, WideBottleneck), image_size=32, hub=None)
SMALL_DEIT = make_deit(
    "small_deit", ViTSpec(8, heads=2, blocks=1, patch=16, prefixes=2), published_blocks=2, image_size=64, hub=None
)
SMALL_DINOV2 = make_dinov2(
    "small_dinov2",
    ViTSpec(8, heads=2, blocks=1, patch=14, prefixes=5, layer_scale=True),
    published_blocks=2,
    image_size=56,
    hub=None,
)


def arrays(module) -> dict[str, np.ndarray]:
    return {dotted(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(module))}


def refusal(backbone, path, size=None) -> str:
    with pytest.raises(WeightsError) as refused:
        load_pretrained(backbone, path, size or backbone.image_size)
    return str(refused.value)


class TestLayouts:
    def test_batch_norm_is_folded_in_float64(self, tmp_path):
        """A norm of almost no variance makes kernels a thousand times larger; they are still rounded only once."""
        state = drawn_state(SMALL_RESNET)
        state["bn1.running_var"][:] = 1e-6
        ours = arrays(load_pretrained(SMALL_RESNET, write_safetensors(tmp_path / "w.safetensors", state), 32))
        scale = state["bn1.weight"].astype(float) / np.sqrt(state["bn1.running_var"].astype(float) + 1e-5)
        kernel = (state["conv1.weight"].astype(float) * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(ours["stem.kernel"], kernel.astype(np.float32))
        shift = state["bn1.bias"].astype(float) - state["bn1.running_mean"].astype(float) * scale
        np.testing.assert_array_equal(ours["stem.bias"], shift.astype(np.float32))

    @pytest.mark.parametrize("backbone", [SMALL_RESNET, SMALL_WIDE], ids=["basic", "wide"])
    def test_folded_file_is_taken_as_it_is(self, tmp_path, backbone):
        state = drawn_state(backbone, layout=1)
        ours = arrays(load_pretrained(backbone, write_safetensors(tmp_path / "w.safetensors", state), 32))
        kernel = state["layer2.0.downsample.0.weight"]
        np.testing.assert_array_equal(ours["stages.1.0.shortcut.kernel"][0, 0].T, kernel[..., 0, 0])
        assert sum(a.size for a in ours.values()) == sum(a.size for a in state.values())

    def test_query_key_and_value_side_by_side(self, tmp_path):
        theirs = drawn_state(SMALL_DEIT, layout=1)
        names = [f"encoder.layer.0.attention.attention.{part}" for part in ("query", "key", "value")]
        path = write_safetensors(tmp_path / "w.safetensors", {f"deit.{key}": a for key, a in theirs.items()})
        ours = arrays(load_pretrained(SMALL_DEIT, path, 64))
        np.testing.assert_array_equal(
            ours["blocks.0.attention.qkv.kernel"], np.concatenate([theirs[f"{name}.weight"].T for name in names], 1)
        )
        position = theirs["embeddings.position_embeddings"][0]
        np.testing.assert_array_equal(ours["position"], position[2:])
        np.testing.assert_allclose(ours["prefix"][1], theirs["embeddings.distillation_token"][0, 0] + position[1])

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, "bfloat16"])
    def test_any_float_type(self, tmp_path, dtype):
        state = {key: array.astype(dtype) for key, array in drawn_state(MOBILENET).items()}
        ours = arrays(load_pretrained(MOBILENET, write_safetensors(tmp_path / "w.safetensors", state), 224))
        np.testing.assert_array_equal(ours["stem.bias"], state["conv1.bias"].astype(np.float32))

    @pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_pth_gives_what_safetensors_gives(self, tmp_path, wrap, prefix):
        state = drawn_state(SMALL_RESNET)
        one = load_pretrained(SMALL_RESNET, write_safetensors(tmp_path / "w.safetensors", state), 32)
        prefixed = {prefix + key: array for key, array in state.items()}
        other = load_pretrained(SMALL_RESNET, write_torch(tmp_path / "w.pth", prefixed, wrap=wrap), 32)
        expected = arrays(one)
        for path, array in arrays(other).items():
            np.testing.assert_array_equal(array, expected[path])

    def test_heads_later_stages_and_counters_are_no_hindrance(self, tmp_path):
        more = {
            "fc.weight": np.zeros((10, 8), np.float32),
            "layer4.0.conv1.weight": np.zeros((8, 8, 3, 3), np.float32),
            "bn1.num_batches_tracked": np.array(7),
        }
        state = drawn_state(SMALL_RESNET)
        path = write_safetensors(tmp_path / "more.safetensors", state | more)
        expected = arrays(load_pretrained(SMALL_RESNET, write_safetensors(tmp_path / "w.safetensors", state), 32))
        loaded = arrays(load_pretrained(SMALL_RESNET, path, 32))
        assert loaded.keys() == expected.keys()
        for leaf, array in expected.items():
            np.testing.assert_array_equal(loaded[leaf], array)

    def test_dinov2_takes_other_sizes_and_a_constant_position_stays_constant(self, tmp_path):
        state = drawn_state(SMALL_DINOV2)
        state["pos_embed"][:, 1:] = 0.25
        path = write_safetensors(tmp_path / "w.safetensors", state)
        ours = arrays(load_pretrained(SMALL_DINOV2, path, 98))["position"]
        assert ours.shape == (49, 8)
        np.testing.assert_allclose(ours, 0.25, rtol=1e-6)


class TestRefusals:
    def test_another_network_of_ours(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors", drawn_state(MOBILENET))
        text = refusal(RESNET18, path)
        assert f"{path} looks like mobilenet_v1_025, not resnet18. Set backbone=mobilenet_v1_025" in text
        assert "model.safetensors of timm/resnet18.tv_in1k" in text
        assert "--set backbone_weights=FILE" in text

    def test_another_network_of_no_one(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors", {"encoder.weight": np.zeros((2, 2), np.float32)})
        text = refusal(RESNET18, path)
        assert f"{path} does not fit resnet18: conv1.weight and 74 more of its 75 tensors are not in it." in text

    def test_a_deeper_relative(self, tmp_path):
        """ResNet34 has all that ResNet18 has, in the same shapes, and more blocks."""
        more = {"layer1.2.conv1.weight": np.zeros((64, 64, 3, 3), np.float32)}
        text = refusal(RESNET18, write_safetensors(tmp_path / "w.safetensors", drawn_state(RESNET18) | more))
        assert "does not fit resnet18: layer1.2.conv1.weight is in it, but not in the network." in text

    def test_registers_in_a_network_without(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors", drawn_state(SMALL_DINOV2))
        plain = ViTSpec(8, heads=2, blocks=1, patch=14, prefixes=1, layer_scale=True)
        other = make_dinov2("plain_dinov2", plain, published_blocks=2, image_size=56, hub=None)
        assert "plain_dinov2: register_tokens is in it, but not in the network." in refusal(other, path)

    @pytest.mark.parametrize("key", ["layer1.0.bn2.running_mean", "layer3.0.downsample.1.bias", "conv1.weight"])
    def test_a_missing_key(self, tmp_path, key):
        state = drawn_state(SMALL_RESNET)
        del state[key]
        assert f"does not fit small_resnet: {key} is not in it." in refusal(
            SMALL_RESNET, write_safetensors(tmp_path / "w.safetensors", state)
        )

    def test_several_missing_keys(self, tmp_path):
        state = drawn_state(SMALL_RESNET)
        del state["bn1.bias"], state["layer2.0.bn1.bias"]
        text = refusal(SMALL_RESNET, write_safetensors(tmp_path / "w.safetensors", state))
        assert "small_resnet: bn1.bias and 1 more are not in it." in text

    def test_a_wrong_shape(self, tmp_path):
        state = drawn_state(SMALL_RESNET)
        state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"][:, :, :1]
        text = refusal(SMALL_RESNET, write_safetensors(tmp_path / "w.safetensors", state))
        assert "layer2.0.conv1.weight is 8 x 4 x 1 x 3 in the file and 8 x 4 x 3 x 3 in the network." in text

    def test_position_embedding_of_another_resolution(self, tmp_path):
        state = drawn_state(SMALL_DEIT)
        state["pos_embed"] = np.zeros((1, 2 + 3 * 3, 8), np.float32)
        text = refusal(SMALL_DEIT, write_safetensors(tmp_path / "w.safetensors", state))
        assert "small_deit: pos_embed is of a 3 x 3 grid in the file and of 4 x 4 in the network." in text

    def test_an_image_size_that_the_position_embedding_does_not_have(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors", drawn_state(SMALL_DEIT))
        text = refusal(SMALL_DEIT, path, 128)
        assert "image_size is 128, but small_deit was published for 64" in text
        assert text.endswith("Set image_size=64.")

    def test_an_image_size_that_is_no_multiple(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors", drawn_state(SMALL_DINOV2))
        assert refusal(SMALL_DINOV2, path, 64).endswith("needs a multiple of 14. Set image_size=70.")

    def test_numbers_that_are_not_finite(self, tmp_path):
        state = drawn_state(SMALL_RESNET)
        state["layer1.0.bn1.running_var"][2] = np.nan
        text = refusal(SMALL_RESNET, write_safetensors(tmp_path / "w.safetensors", state))
        assert "stages.0.0.conv1.kernel of small_resnet has values that are not finite." in text

    @pytest.mark.parametrize("kept", [0, 5, 200, -1])
    def test_a_truncated_safetensors(self, tmp_path, kept):
        path = write_safetensors(tmp_path / "w.safetensors", drawn_state(MOBILENET))
        path.write_bytes(path.read_bytes()[:kept])
        text = refusal(MOBILENET, path)
        assert text.startswith(f"{path} can't be read as safetensors (")
        assert text.endswith("fetch it again and compare its size.")

    def test_no_file_a_folder_and_a_backbone_without_weights(self, tmp_path):
        assert f"{tmp_path / 'none'} is not there." in refusal(RESNET18, tmp_path / "none")
        assert f"{tmp_path} is not there." in refusal(RESNET18, tmp_path)
        path = write_safetensors(tmp_path / "w.safetensors", drawn_state(MOBILENET))
        assert "mini has no published weights; its weights are drawn from the seed." in refusal(MINI, path)


class TestFinding:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FAULTLINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", self.unreachable)
        (tmp_path / "cache/backbones").mkdir(parents=True)
        return tmp_path / "cache/backbones"

    @staticmethod
    def unreachable(url, timeout):
        raise OSError("[Errno -2] Name or service not known\nmore")

    def test_the_users_file_first_then_the_cache_then_the_hub(self, tmp_path, cache, monkeypatch):
        asked = []
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: None)
        monkeypatch.setattr(
            huggingface_hub, "hf_hub_download", lambda repo, name: asked.append((repo, name)) or "fetched"
        )
        assert str(find_weights(RESNET18, None)) == "fetched"
        assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")]
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: "fetched before")
        assert str(find_weights(RESNET18, None)) == "fetched before"
        (cache / "resnet18.pth").touch()
        assert find_weights(RESNET18, None) == cache / "resnet18.pth"
        (cache / "resnet18.safetensors").touch()
        assert find_weights(RESNET18, None) == cache / "resnet18.safetensors"
        (tmp_path / "mine").touch()
        assert find_weights(RESNET18, tmp_path / "mine") == tmp_path / "mine"
        assert len(asked) == 1

    def test_offline_says_which_file_to_bring_and_where(self, cache):
        with pytest.raises(WeightsError) as refused:
            find_weights(RESNET18, None)
        assert str(refused.value) == (
            "There are no weights of resnet18 here, and the Hugging Face hub gave none ([Errno -2] Name or service not "
            "known). Bring model.safetensors of timm/resnet18.tv_in1k on the Hugging Face hub: put it at "
            f"{cache / 'resnet18.safetensors'} or name it with --set backbone_weights=FILE."
        )

    def test_what_no_hub_has(self, cache):
        with pytest.raises(
            WeightsError, match=r"no weights of mobilenet_v1_025 here\. Bring a file of its published w"
        ):
            find_weights(MOBILENET, None)
        with pytest.raises(WeightsError, match="mini has no published weights"):
            find_weights(MINI, None)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(WeightsError, match=r"gone\.pth is not there\. Bring model.safetensors of timm/resnet18"):
            find_weights(RESNET18, tmp_path / "gone.pth")


class TestOfARun:
    def test_comes_back_bit_for_bit(self, tmp_path):
        module = random_weights(SMALL_DINOV2, 56, seed=3)
        save_backbone(tmp_path / "backbone.safetensors", module)
        again = arrays(restore_backbone(SMALL_DINOV2, tmp_path / "backbone.safetensors", 56))
        expected = arrays(module)
        assert again.keys() == expected.keys()
        for path, array in again.items():
            np.testing.assert_array_equal(array, expected[path])

    def test_features_are_the_same(self, tmp_path):
        module = random_weights(MINI, 64, seed=3)
        save_backbone(tmp_path / "b", module)
        images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8))
        pairs = zip(
            features(module, images, MINI),
            features(restore_backbone(MINI, tmp_path / "b", 64), images, MINI),
            strict=True,
        )
        assert all((a == b).all() for a, b in pairs)

    def test_of_another_size_or_network(self, tmp_path):
        save_backbone(tmp_path / "b", random_weights(SMALL_DINOV2, 56, seed=3))
        with pytest.raises(WeightsError) as refused:
            restore_backbone(SMALL_DINOV2, tmp_path / "b", 70)
        assert "does not hold small_dinov2 for image_size 70: position is 16 x 8 there and 25 x 8" in str(refused.value)
        with pytest.raises(WeightsError, match=r"b does not hold mini for image_size 64: .* missing in mini\."):
            restore_backbone(MINI, tmp_path / "b", 64)

    def test_a_published_file_and_a_damaged_one(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors", drawn_state(MOBILENET))
        with pytest.raises(WeightsError, match="is not a backbone of a run"):
            restore_backbone(MOBILENET, path, 224)
        save_backbone(tmp_path / "b", random_weights(MINI, 64, seed=0))
        (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:-4])
        with pytest.raises(WeightsError, match="can't be read as safetensors"):
            restore_backbone(MINI, tmp_path / "b", 64)

    def test_nothing_of_the_file_depends_on_the_process(self, tmp_path):
        module = random_weights(MINI, 64, seed=0)
        for name in "ab":
            save_backbone(tmp_path / name, module)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert set(safetensors.numpy.load_file(tmp_path / "a")) == set(arrays(module))
