"""Files as PyTorch users publish them, drawn with random weights and written without PyTorch."""

import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import safetensors.numpy

from train.backbones.backbone import leaf_shapes


def drawn_state(backbone, layout=0, *, size=None, seed=0) -> dict[str, np.ndarray]:
    """Random tensors under the published keys that the backbone reads; running variances are positive."""
    generator = np.random.default_rng(seed)
    shapes = backbone.layouts[layout].published(leaf_shapes(backbone, size or backbone.image_size))
    state = {}
    for key, shape in shapes.items():
        values = generator.standard_normal(shape) / max(1.0, np.prod(shape[1:]) ** 0.5)
        state[key] = (np.abs(values) + 0.5 if key.endswith("running_var") else values).astype(np.float32)
    return state


def write_safetensors(path, state):
    path.write_bytes(safetensors.numpy.save(state))
    return path


class Global:
    """Pickles as a name of another module, which need not be installed."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class _StorageId:
    def __init__(self, *parts):
        self.parts = parts


class _Pickler(pickle._Pickler):
    """Writes what torch.save writes: protocol 2, storages by persistent id."""

    def persistent_id(self, thing):
        return thing.parts if isinstance(thing, _StorageId) else None

    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, Global):
            self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, Call):
            self.save(thing.function)
            self.save(thing.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(thing, save_persistent_id)


KINDS = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def write_torch(path, state, *, wrap=None, also=None, compression=zipfile.ZIP_STORED):
    """A zip as torch.save makes it; `wrap` puts the state dict under a key, `also` adds entries of any kind."""
    members, content = {}, OrderedDict()
    for number, (key, array) in enumerate(state.items()):
        storage = _StorageId("storage", Global("torch", KINDS[array.dtype.name]), str(number), "cpu", array.size)
        strides = tuple(step // array.itemsize for step in np.array(array, order="C").strides)
        rebuild = Global("torch._utils", "_rebuild_tensor_v2")
        content[key] = Call(rebuild, storage, 0, array.shape, strides, False, OrderedDict())
        members[str(number)] = array.tobytes()
    content.update(also or {})
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open("archive/data.pkl", "w") as file:
        _Pickler(file, protocol=2).dump({wrap: content} if wrap else content)
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr("archive/byteorder", "little")
        for name, data in members.items():
            archive.writestr(f"archive/data/{name}", data)
        archive.writestr("archive/version", "3\n")
    return path


def command(text):
    """What runs a command in a shell when a pickle that holds it is loaded as Python loads one."""
    return Call(Global("os", "system"), text)


def write_legacy(path):
    """The first bytes of a file of PyTorch before 1.6."""
    magic = 0x1950A86A20F9469CFC6C
    path.write_bytes(pickle.dumps(magic, protocol=2) + pickle.dumps(1001, protocol=2) + struct.pack("<q", 0))
    return path
