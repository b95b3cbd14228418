"""The trtexec line that builds and times the same engine, for who wants to look closer."""

import shlex
from pathlib import Path

from edge_agent.engines.tensorrt.api import Flavour

MEBIBYTE = 2**20


def trtexec_line(
    model: Path,
    *,
    flavour: Flavour,
    image: tuple[int, int],
    batch_sizes: tuple[int, int, int],
    workspace_bytes: int | None,
    optimization_level: int,
    allow_tf32: bool,
    timing: Path | None = None,
) -> str:
    """Two commands: build, then time. TensorRT-RTX calls its trtexec tensorrt_rtx."""
    program = "trtexec" if flavour == "tensorrt" else "tensorrt_rtx"
    engine = f"{model.stem}.engine"
    shapes = [f"image:{n}x{image[0]}x{image[1]}x3" for n in batch_sizes]
    build = [program, f"--onnx={model}", f"--saveEngine={engine}"]
    if timing is not None:
        build.append(f"--timingCacheFile={timing}")
    build += [f"--{which}Shapes={shape}" for which, shape in zip(("min", "opt", "max"), shapes, strict=True)]
    if flavour == "tensorrt":  # from TensorRT 11 on, and in TensorRT-RTX, every network is
        build.append("--stronglyTyped")
    if not allow_tf32:
        build.append("--noTF32")
    build.append(f"--builderOptimizationLevel={optimization_level}")
    if workspace_bytes is not None:
        build.append(f"--memPoolSize=workspace:{workspace_bytes / MEBIBYTE:g}")
    build.append("--skipInference")
    time = [program, f"--loadEngine={engine}", f"--shapes={shapes[0]}", "--useCudaGraph", "--warmUp=500"]
    time += ["--duration=10", "--percentile=99", "--exportTimes=times.json"]
    return f"{shlex.join(build)} && {shlex.join(time)}"
