"""InceptionV3 against plain PyTorch in float64: both variants, from files with random weights, resizing included.

torchvision and pytorch-fid are not installed here: the reference is our own PyTorch network (torch_inception.py), and
only its resizing is PyTorch's own code, called as pytorch-fid calls it.
"""

import numpy as np
import pytest

from train.quality.networks import feature_network

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402
import torch_inception as plain  # noqa: E402
from torch_networks import shaken  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("fid", [True, False], ids=["fid", "torchvision"])
def test_pooled_features(tmp_path, fid):
    reference = shaken(plain.InceptionV3(fid=fid), seed=0)
    with torch.no_grad():  # a ReLU halves the variance, so that 50 layers of them would leave nothing to compare
        for name, value in reference.named_parameters():
            if name.endswith("conv.weight"):
                value.mul_(2**0.5)
    path = tmp_path / "inception.safetensors"
    safetensors.torch.save_file(reference.state_dict(), path)
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    network = feature_network(str(path))
    assert network.is_fid == fid
    ours = network.pooled(images)

    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).double() / 255
    x = torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        last = reference.double().maps(2 * x - 1)
    assert last.shape == (2, 2048, 8, 8)
    theirs = last.mean(dim=(2, 3)).numpy()
    assert theirs.std() > 0.1 * np.abs(theirs).max() and np.abs(theirs[0] - theirs[1]).max() > 0.05 * theirs.std()
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())
