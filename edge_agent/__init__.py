"""The agent on the line: judges every part with a bundle, says so on MQTT, and loses no verdict. Never sees JAX."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("faultline")
except PackageNotFoundError:  # run from a checkout that isn't installed
    __version__ = "0+unknown"
