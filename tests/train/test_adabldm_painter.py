"""AdaBLDM's painter, untrained: where masks go, what an image hangs on, what is refused before anything is drawn."""

from itertools import pairwise
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained_adabldm import CATEGORIES, SIZE, images, make_run, task

from edge_agent.preprocess import Preprocessing
from train.backbones.mini import MINI
from train.backbones.pretrained import random_weights
from train.config import ConfigError
from train.generators.adabldm.fidelity import fidelity_of
from train.generators.adabldm.foreground import fit_foreground
from train.generators.adabldm.painter import AdaBLDMPainter
from train.generators.adabldm.sampler import Asked, guided_noise
from train.generators.adabldm.shapes import read_shapes, read_trimaps
from train.generators.adabldm.sheet import columns_of
from train.generators.adabldm.stages import PRESETS
from train.generators.adabldm.tokenizer import HashedWords
from train.synthesis.errors import SynthesisError
from train.synthesis.foreground import NoForeground
from train.synthesis.regions import parse_region
from train.synthesis.run_painter import keys_of
from train.synthesis.wishes import Wishes

EVERYWHERE = np.ones((2, SIZE, SIZE), bool)
PLAIN = Preprocessing(width=SIZE, height=SIZE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def painter(run):
    return AdaBLDMPainter(run, Wishes(batch=2, sheets=True))


@pytest.fixture(scope="module")
def painted(painter):
    return painter.paint(images(2), EVERYWHERE, [task(0), task(1)])


def write(path, levels):
    cv2.imwrite(str(path), np.asarray(levels, np.uint8))
    return path


class TestAnImage:
    def test_hangs_on_its_own_seed_and_index_and_on_nothing_beside_it(self, painter, painted):
        others = painter.paint(images(2, seed=0), EVERYWHERE, [task(0), task(7)])
        np.testing.assert_array_equal(others.images[0], painted.images[0])
        np.testing.assert_array_equal(others.masks[0], painted.masks[0])
        assert others.notes[0] == painted.notes[0]
        assert (others.images[1] != painted.images[1]).mean() > 0.1
        swapped = painter.paint(images(2)[::-1], EVERYWHERE, [task(7), task(0)])
        np.testing.assert_array_equal(swapped.masks[1], painted.masks[0])
        assert np.abs(swapped.images[1].astype(int) - painted.images[0]).max() <= 2
        another = painter.paint(images(2), EVERYWHERE, [task(0, seed=1), task(1, seed=1)])
        assert (another.images != painted.images).mean() > 0.1

    @pytest.mark.slow
    def test_is_drawn_alike_in_turn_and_by_one_program(self, run, painted, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        at_once = AdaBLDMPainter(run, Wishes(batch=2))
        assert not at_once.drawing.in_turn
        assert AdaBLDMPainter(run, Wishes()).batch == 8
        drawn = at_once.paint(images(2), EVERYWHERE, [task(0), task(1)])
        np.testing.assert_array_equal(drawn.masks, painted.masks)
        assert np.abs(drawn.images.astype(int) - painted.images).max() <= 2

    def test_weaker_it_lies_between_the_normal_one_and_itself(self, painter, painted):
        weak = painter.paint(images(2), EVERYWHERE, [task(0, strength=0.5), task(1, strength=0.25)])
        for n, share in enumerate((0.5, 0.25)):
            between = images(2)[n] + share * (painted.images[n].astype(float) - images(2)[n])
            np.testing.assert_allclose(weak.images[n], between, atol=1.01)
            np.testing.assert_array_equal(weak.masks[n], share * painted.masks[n])

    def test_says_what_it_was_told_and_how_near_it_is(self, painter, painted):
        note = painted.notes[1]
        assert note["prompt"] == "part, a part with a spot"
        assert note["mask_pixels"] == painted.masks[1].sum()
        outside = painted.masks[1] == 0
        change = np.abs(painted.images[1].astype(float) - images(2)[1]).mean(axis=-1) / 255
        assert note["fidelity"]["error"] == pytest.approx(change[outside].mean(), rel=1e-3)
        first, last = note["adaptation_loss"]["background"]
        assert last < first
        assert note["adaptation_loss"]["defect"][0] == 0

    def test_is_told_the_prompt_of_its_category(self, run, painter):
        reader = HashedWords(run.config.networks.text.words, run.config.networks.text.tokens)
        rusty = AdaBLDMPainter(run, Wishes(prompt="{object}, {defect} and rust"))
        for asked, sentence in ((painter, "part, a part with a spot"), (rusty, "part, spot and rust")):
            expected = run.weights.text(jnp.asarray(reader.ids([sentence])))[0]
            np.testing.assert_array_equal(asked.contexts["spot"], expected)
        np.testing.assert_array_equal(painter.empty, run.weights.text(jnp.asarray(reader.ids([""])))[0])
        assert painter.away is None

    def test_comes_with_a_strip_of_all_stages(self, painter, painted):
        columns = painter.identity["drawing"]["sheets"]
        assert columns == columns_of(painter.config.sampling.stages)
        assert columns[2:5] == ("after free", "after latent edit", "after image edit = before adaptation")
        (strip, _) = painted.sheets
        assert strip.shape == (SIZE, 7 * SIZE + 6 * 2, 3)
        tiles = [strip[:, n * (SIZE + 2) : n * (SIZE + 2) + SIZE] for n in range(7)]
        np.testing.assert_array_equal(tiles[0], images(2)[0])
        np.testing.assert_array_equal(tiles[1][..., 0] == 255, painted.masks[0] == 1)
        np.testing.assert_array_equal(tiles[5], painted.images[0])
        assert all((a != b).any() for a, b in pairwise(tiles))
        assert columns_of(PRESETS["official_code"])[4] == "after latent edit and image edit"


class TestMasks:
    def test_lie_where_they_are_asked_for_and_are_those_learned_from(self, painter, painted):
        regions = np.zeros((2, SIZE, SIZE), bool)
        regions[0, :16], regions[1, :, 16:] = True, True
        boxed = painter.paint(images(2), regions, [task(0), task(1)])
        for mask, region, free in zip(boxed.masks, regions, painted.masks, strict=True):
            assert 4 <= mask.sum() <= 1.4 * 16
            assert not (mask.astype(bool) & ~region).any()
            assert (mask != free).any()
        line, spot = (np.argwhere(mask).max(axis=0) - np.argwhere(mask).min(axis=0) for mask in painted.masks)
        assert np.linalg.norm(line) > 7
        assert np.linalg.norm(spot) < 8

    def test_are_turned_in_as_many_ways_as_there_are_images(self, painter):
        tasks = [task(n, "line") for n in range(16)]
        asks = painter.placing.asks(images(16), np.ones((16, SIZE, SIZE), bool), tasks, keys_of(tasks))
        assert len({mask.tobytes() for mask in asks.mask}) == 16
        assert {painter.placing.said_of(task) for task in tasks} == {0, 1}

    def test_of_the_user_take_the_place_of_those_learned_from(self, run, tmp_path):
        cross = np.zeros((SIZE, SIZE))
        cross[4:28, 14:18] = cross[14:18, 4:28] = 255
        painter = AdaBLDMPainter(run, Wishes(batch=2, shape=write(tmp_path / "cross.png", cross), adaptation=0))
        asks = painter.placing.asks(images(2), EVERYWHERE, [task(0), task(1)], keys_of([task(0), task(1)]))
        area = (cross > 0).sum()
        assert all(0.6 * area < mask.sum() < 1.4 * area for mask in asks.mask)
        assert painter.identity["drawing"]["shapes"]["kind"] == "shape"

    def test_of_a_trimap_stay_where_they_are_and_bring_their_part(self, run, tmp_path):
        trimap = np.zeros((SIZE, SIZE))
        trimap[4:28, 4:28], trimap[8:12, 20:25] = 127, 255
        painter = AdaBLDMPainter(run, Wishes(batch=2, trimap=write(tmp_path / "trimap.png", trimap)))
        tasks = [task(0), task(1)]
        asks = painter.placing.asks(images(2), EVERYWHERE, tasks, keys_of(tasks))
        for mask, part in zip(*asks, strict=True):
            np.testing.assert_array_equal(mask, trimap == 255)
            np.testing.assert_array_equal(part, trimap > 0)

    def test_of_a_folder_are_drawn_by_the_seed(self, run, tmp_path):
        for n in range(3):
            mask = np.zeros((SIZE, SIZE))
            mask[10 : 12 + n, 10:14] = 255
            write(tmp_path / f"{n}.png", mask)
        painter = AdaBLDMPainter(run, Wishes(batch=2, shape=tmp_path))
        names = [painter.placing.shape_of(task(index)).name for index in range(12)]
        assert set(names) == {"0.png", "1.png", "2.png"}
        assert names == [painter.placing.shape_of(task(index)).name for index in range(12)]
        assert names != [painter.placing.shape_of(task(index, seed=1)).name for index in range(12)]


class TestThePart:
    def test_of_a_texture_is_everywhere_and_ends_at_the_crop(self, run, tmp_path):
        assert AdaBLDMPainter(run, Wishes()).find_part(images(1)[0]).all()
        part = AdaBLDMPainter(make_run(tmp_path, crop=[6, 2, 20, 24]), Wishes()).find_part(images(1)[0])
        expected = np.zeros((SIZE, SIZE), bool)
        expected[2:26, 6:26] = True
        np.testing.assert_array_equal(part, expected)

    def test_is_what_the_runs_own_predictor_finds(self, tmp_path):
        random, parts = np.random.default_rng(0), []
        for _ in range(4):
            mask = np.zeros((SIZE, SIZE), np.uint8)
            cv2.circle(mask, (16, 16), int(random.integers(7, 10)), 1, -1)
            colours = random.normal(90, 4, (SIZE, SIZE, 3)) + mask[..., None] * np.array([90, 40, -40])
            parts.append(np.clip(colours, 0, 255).astype(np.uint8))
        settings = {"foreground": "predict", "backbone": "mini"}
        seen = make_run(tmp_path, **settings).config.seen
        backbone = random_weights(MINI, seen.input_side, 0)
        discriminant, _ = fit_foreground(seen, backbone, np.stack(parts), list("abcd"), 0)
        painter = AdaBLDMPainter(make_run(tmp_path, (backbone, discriminant), **settings), Wishes())
        frame = cv2.resize(parts[0], (48, 40), interpolation=cv2.INTER_NEAREST)
        part = painter.find_part(frame)
        assert part.shape == (40, 48)
        assert part[20, 24]
        assert not part[:3].any()
        assert not part[:, -3:].any()
        path = write(tmp_path / "frame.png", frame[..., ::-1])
        off = r"frame\.png: the region box:0,0,3,3 lies off the part, which covers [1-9]\d?% of the image"
        with pytest.raises(ConfigError, match=off):
            painter.check([task(0, path=str(path))], parse_region("box:0,0,3,3"))
        painter.check([task(0, path=str(path))], parse_region("box:20,16,9,9"))
        with pytest.raises(NoForeground, match="the part that was found covers .* of the image; one covers 1% to 98%"):
            painter.find_part(np.full((SIZE, SIZE, 3), 90, np.uint8))


class TestRefused:
    @pytest.mark.parametrize(
        ("wishes", "sentence"),
        [
            ({"stages": "official_cod"}, "--stages is official_cod. .* Did you mean official_code?"),
            ({"stages": "3/4"}, "--stages is 3/4. There is no preset .* such as 20/25/5"),
            ({"guidance": -1.0}, "--guidance is -1.0. Input should be greater than or equal to 0"),
            ({"adaptation": -3}, "--adaptation is -3"),
            ({"renoise": "back"}, "--renoise is back. Input should be 'current' or 'prev'"),
            ({"batch": 0}, "--batch is 0. Give 1 or more"),
            ({"prompt": "{thing} with a {defect}"}, "--prompt is .*{thing} is no blank of a prompt"),
            ({"prompt": "a {defect} " * 30}, "--prompt: The prompt .* has 60 tokens; at most 16 are read. Shorten it"),
        ],
    )
    def test_is_a_wish_that_is_none(self, run, wishes, sentence):
        with pytest.raises(ConfigError, match=sentence):
            AdaBLDMPainter(run, Wishes(**wishes))

    def test_is_a_prompt_that_a_run_with_labels_does_not_know(self, tmp_path):
        run = make_run(tmp_path, text="labels")
        AdaBLDMPainter(run, Wishes())
        with pytest.raises(
            ConfigError, match=r'"part, very rusty" is not one .* It knows: .*"part, a part with a spot"'
        ):
            AdaBLDMPainter(run, Wishes(prompt="{object}, very rusty"))

    def test_is_a_shape_that_is_none(self, run, tmp_path):
        grey = write(tmp_path / "grey.png", np.linspace(0, 255, SIZE * SIZE).reshape(SIZE, SIZE))
        black = write(tmp_path / "black.png", np.zeros((SIZE, SIZE)))
        (tmp_path / "empty").mkdir()
        for read, path, sentence in (
            (read_trimaps, grey, r"--trimap: .*grey.png is no trimap: \d+% of its pixels are neither"),
            (read_trimaps, black, "--trimap: of the defect in black.png nothing is left at model size, 32 x 32"),
            (read_shapes, black, "--shape: of the defect in black.png nothing is left"),
            (read_shapes, tmp_path / "empty", "--shape: .*empty holds no image"),
            (read_shapes, tmp_path / "none.png", "--shape: .*none.png is missing"),
        ):
            with pytest.raises(ConfigError, match=sentence):
                read(path, PLAIN)
        with pytest.raises(ConfigError, match="--shape and --trimap both say"):
            AdaBLDMPainter(run, Wishes(shape=grey, trimap=grey))

    def test_is_what_does_not_fit_the_images(self, run, tmp_path):
        source = task(0, path=str(write(tmp_path / "frame.png", images(1)[0])))
        half = np.zeros((SIZE, SIZE))
        half[:, :16] = 255
        shape = AdaBLDMPainter(run, Wishes(shape=write(tmp_path / "half.png", half)))
        shape.check([source], parse_region("image"))
        with pytest.raises(ConfigError, match="the defect in half.png has 512 pixels at model size, more than the 100"):
            shape.check([source], parse_region("box:0,0,10,10"))
        trimap = AdaBLDMPainter(run, Wishes(trimap=tmp_path / "half.png"))
        trimap.check([source], parse_region("image"))
        with pytest.raises(
            ConfigError, match="256 of the 512 pixels of the defect in half.png lie off the part, or outside"
        ):
            trimap.check([source], parse_region("box:0,0,32,16"))
        small = AdaBLDMPainter(run, Wishes(shape=write(tmp_path / "small.png", half[:16])))
        with pytest.raises(ConfigError, match="it is 32 x 32 pixels, but small.png is 32 x 16 pixels"):
            small.check([source], parse_region("image"))

    def test_is_more_than_fits_the_memory(self, painter, monkeypatch):
        def full(*_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")

        monkeypatch.setattr(painter, "drawing", full)
        with pytest.raises(SynthesisError, match="Drawing 2 images at once .* a smaller --batch, 1 instead of 2"):
            painter.paint(images(2), EVERYWHERE, [task(0), task(1)])

        def broken(*_):
            raise jax.errors.JaxRuntimeError("INTERNAL: something else")

        monkeypatch.setattr(painter, "drawing", broken)
        with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
            painter.paint(images(2), EVERYWHERE, [task(0), task(1)])


class Told(NamedTuple):
    """Networks that say what they are told."""

    autoencoder: None = None

    def trimap_encoder(self, latent, trimap, step, empty):
        return empty.mean(axis=(1, 2))[:, None, None, None]

    def denoiser(self, latent, step, context, control):
        return jnp.zeros_like(latent) + context.mean(axis=(1, 2))[:, None, None, None] + 10 * control


def test_guidance_leads_away_from_the_negative_prompt():
    latent, trimap = jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 4, 4))
    prompt, empty, away = (jnp.full((1, 2, 3), value) for value in (5.0, 1.0, 2.0))
    step = jnp.asarray(3)
    plain = guided_noise(Told(), latent, step, Asked(trimap, prompt, empty), 9.0)
    led = guided_noise(Told(), latent, step, Asked(trimap, prompt, empty, away), 9.0)
    np.testing.assert_allclose(plain, 10 + 1 + 9 * (5 - 1))
    np.testing.assert_allclose(led, 10 + 2 + 9 * (5 - 2))


def test_fidelity_by_hand():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    normal = np.full((8, 8, 3), 100, np.uint8)
    before, image = normal + 10, normal + 1
    image[mask], before[mask] = 130, 105
    found = fidelity_of(normal, before, image, mask)
    assert found.psnr_before == pytest.approx(20 * np.log10(25.5))
    assert found.psnr == pytest.approx(20 * np.log10(255))
    assert (found.error_before, found.error) == pytest.approx((10 / 255, 1 / 255))
    assert found.change_ratio == pytest.approx(30)
    assert found.auroc == 1
    assert found.gates == {"psnr": True, "error_left": True, "change_ratio": True, "auroc": True}
    worse = fidelity_of(normal, image, before, mask)
    assert worse.gates == {"psnr": False, "error_left": False, "change_ratio": False, "auroc": False}
    whole = fidelity_of(normal, before, image, np.ones((8, 8), bool))
    assert (whole.psnr, whole.error, whole.auroc) == (None, None, None)
    assert not any(whole.gates.values())


def test_categories_are_those_of_the_run(painter):
    assert painter.categories == CATEGORIES
    assert painter.exclusive
