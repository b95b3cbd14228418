"""Generators: published methods that draw defects, each in a package of its own."""

from train.generators.generator import Generator, Painted
from train.generators.registry import GENERATORS, find_generator

__all__ = ["GENERATORS", "Generator", "Painted", "find_generator"]
