"""TensorRT and TensorRT-RTX: built on the device from a bundle, trusted once they have proved themselves there.

build.py    ONNX -> engine file        open.py      engine file -> engine, proved
cache.py    engine files on disk       runtime.py   the engine, on PyCUDA
timing.py   what a build measured      api.py       what we use of TensorRT and PyCUDA, typed
"""

from edge_agent.engines.tensorrt.api import Flavour
from edge_agent.engines.tensorrt.build import Built, build_engine
from edge_agent.engines.tensorrt.cache import default_folder
from edge_agent.engines.tensorrt.cuda import DeviceLost
from edge_agent.engines.tensorrt.open import open_tensorrt

DEFAULT_CACHE = default_folder()

__all__ = ["DEFAULT_CACHE", "Built", "DeviceLost", "Flavour", "build_engine", "open_tensorrt"]
