"""The classifier that measures what synthetic images are worth: its losses, what it is fed, and a training."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.classifier import CLASSIFIER, ClassifierConfig
from train.classifier.data import labels_of, load_data, resolved, split
from train.classifier.fit import fit_classifier, mixed_batches
from train.classifier.model import Classifier, reversed_gradient
from train.classifier.system import classification_loss, is_right
from train.config import ConfigError, find_config, load_config
from train.data.defects import open_defects
from train.data.samples import DataError

SIDE = 32


def write(folder, count, seed, *, mark=None):
    """Grey noise, with a bright bar across for one class and down for another."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        image = generator.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8)
        at = int(generator.integers(4, SIDE - 8))
        if mark == "across":
            image[at : at + 4] = 250
        elif mark == "down":
            image[:, at : at + 4] = 10
        cv2.imwrite(str(folder / f"{number:03}.png"), image)


@pytest.fixture
def real(tmp_path):
    for part, count in (("train", 12), ("test", 4)):
        for seed, (name, mark) in enumerate((("good", None), ("across", "across"), ("down", "down"))):
            write(tmp_path / "real" / part / name, count, 10 * seed + len(part), mark=mark)
    return tmp_path / "real"


@pytest.fixture
def synthetic(tmp_path):
    folder = tmp_path / "synthetic"
    write(folder / "test" / "across", 6, 50, mark="across")
    write(folder / "test" / "down", 6, 51, mark="down")
    write(folder / "ground_truth" / "down", 6, 52)
    write(folder / "train" / "good", 6, 53)  # the real backgrounds of a synthesis
    (folder / "synthesis.json").write_text("{}")
    return folder


def tiny(*settings):
    return load_config(find_config("classifier", "tiny"), ClassifierConfig, settings)


@pytest.mark.parametrize("name", ["tiny", "cpu", "paper"])
def test_its_configs(name):
    config = load_config(find_config("classifier", name), ClassifierConfig)
    assert config.batch_size == (8 if name == "tiny" else 16)
    assert name != "paper" or (config.network, config.learning_rate, config.image_size) == ("resnet34", 1e-3, 224)


def test_a_training_with_synthetic_images_is_judged_on_real_ones_alone(tmp_path, real, synthetic):
    config = tiny("epochs=6", "steps_per_epoch=8")
    result = fit_classifier(config, open_defects(real), tmp_path / "run", synthetic=[synthetic])
    assert (result.n_train, result.n_synthetic, result.n_test) == (30, 12, 12)  # neither masks nor backgrounds
    assert result.steps == 48
    assert result.accuracy > 0.6  # of three kinds
    assert result.accuracy == pytest.approx(np.mean(list(result.class_accuracy.values())))
    assert sorted(result.class_accuracy) == ["across", "down", "normal"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["accuracy"] == result.accuracy


def test_validation_images_are_real_of_every_kind_and_not_trained_on(real):
    defects = open_defects(real)
    train, validation = split(defects, tiny())
    assert not {sample.path for sample in train} & {sample.path for sample in validation}
    assert {sample.categories for sample in validation} == {(), ("across",), ("down",)}
    assert len(train) + len(validation) == 36
    assert all(sample.split == "train" for sample in (*train, *validation))
    assert split(defects, tiny("seed=1"))[1] != validation


def test_every_batch_holds_its_share_of_synthetic_images():
    config = tiny("synthetic_share=0.25")
    batches = list(mixed_batches(config, 30, 5, 0, 20))
    assert all((batch >= 30).sum() == 2 and len(batch) == 8 for batch in batches)
    assert {int(i) for batch in batches for i in batch} == set(range(35))
    np.testing.assert_array_equal(list(mixed_batches(config, 30, 5, 7, 9)), batches[7:9])  # what a resumed run sees
    assert all((batch < 30).all() for batch in mixed_batches(config, 30, 0, 0, 5))


def test_labels_losses_and_what_counts_as_right():
    one = tiny().model_copy(update={"categories": ("dent", "hole"), "exclusive": True})
    several = one.model_copy(update={"exclusive": False})
    assert labels_of(("hole",), one).tolist() == [0, 1, 0] and labels_of((), one).tolist() == [0, 0, 1]
    assert labels_of(("dent", "hole"), several).tolist() == [1, 1] and labels_of((), several).tolist() == [0, 0]
    logits = jnp.array([[2.0, -1.0]])
    both = jnp.array([[1.0, 1.0]])
    expected = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(1.0))])
    np.testing.assert_allclose(classification_loss(logits, both, several), [expected], rtol=1e-6)
    assert is_right(logits, both, several).tolist() == [0]
    assert is_right(jnp.array([[2.0, 1.0]]), both, several).tolist() == [1]
    logits = jnp.array([[0.0, 3.0, 1.0]])
    hole = jnp.array([[0.0, 1.0, 0.0]])
    np.testing.assert_allclose(classification_loss(logits, hole, one), [np.log(np.exp(logits).sum()) - 3.0], rtol=1e-6)
    assert is_right(logits, hole, one).tolist() == [1]


def test_the_source_of_an_image_is_unlearned_by_the_features_and_learned_by_its_layer():
    def loss(weights, x, layer):
        return jnp.sum(reversed_gradient(x * weights, 0.5) * layer)

    x, layer = jnp.array([[2.0, 3.0]]), jnp.array([[1.0, -1.0]])
    of_features, of_layer = jax.grad(loss, argnums=(0, 2))(jnp.ones((1, 2)), x, layer)
    np.testing.assert_allclose(of_features, -0.5 * x * layer)
    np.testing.assert_allclose(of_layer, x)
    model = Classifier("resnet10", 4, 3, small_stem=True, source=True, form="plain", rngs=nnx.Rngs(0))
    inputs = {
        "image": jnp.zeros((2, SIDE, SIDE, 3), jnp.uint8),
        "labels": jnp.eye(3)[:2],
        "synthetic": jnp.array([0.0, 1.0]),
    }
    config = tiny("source_weight=0.5").model_copy(update={"categories": ("dent", "hole")})
    total, metrics = CLASSIFIER.phases(config)[0].players[0].loss(model, inputs, jax.random.key(0), config)
    assert (metrics["source_loss"] > 0).all() and (total > metrics["source_loss"]).all()


def test_what_is_refused(tmp_path, real, synthetic):
    with pytest.raises(ConfigError, match=r"no synthetic images to tell from real ones"):
        fit_classifier(tiny("source_weight=1"), open_defects(real), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"batch_size is 64, but there are 30 images"):
        fit_classifier(tiny("batch_size=64", "steps_per_epoch=0"), open_defects(real), tmp_path / "run")
    write(synthetic / "test" / "hole", 2, 60)
    config = resolved(tiny(), open_defects(real))
    with pytest.raises(DataError, match=r"hole is of no class that the real images have: across, down"):
        load_data(config, open_defects(real), [synthetic])
    assert not (tmp_path / "run").exists()
