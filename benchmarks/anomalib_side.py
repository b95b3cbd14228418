"""anomalib's side of anomalib_speed.py; runs in anomalib's own environment and imports nothing of ours.

    PYTHON anomalib_side.py FOLDER

Exports FastFlow (ResNet18, 3x3 kernels only, random weights) to OpenVINO below FOLDER, opens it in each way to be
timed, and writes one JSON line about versions and rows. Then, for each line `ROW CALLS` on stdin, one JSON list with
the seconds and the processors' seconds of each call.
"""

import json
import sys
import time
import warnings
from pathlib import Path

SIZE = 256


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # what anomalib prints is no answer
    import anomalib
    import numpy as np
    import openvino
    import torch
    from anomalib.deploy import OpenVINOInferencer
    from anomalib.models import Fastflow

    torch.manual_seed(0)
    model = Fastflow(backbone="resnet18", pre_trained=False, flow_steps=8, conv3x3_only=True)
    model.eval()
    path = Path(model.to_openvino(folder, input_size=(SIZE, SIZE)))
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    rows = {}
    for name, config in (
        ("inferencer as delivered", None),
        ("inferencer float32", {"INFERENCE_PRECISION_HINT": "f32"}),
        ("inferencer bfloat16", {"INFERENCE_PRECISION_HINT": "bf16"}),
    ):
        inferencer = OpenVINOInferencer(path, device="CPU", config=config)
        rows[name] = lambda inferencer=inferencer: inferencer.predict(image)
    core = openvino.Core()
    graph = core.read_model(path)
    shape = graph.inputs[0].partial_shape
    graph.reshape({graph.inputs[0].any_name: [1, 3, SIZE, SIZE]})
    ready = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 255
    for name, precision in (("raw float32", "f32"), ("raw bfloat16", "bf16")):
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        request = core.compile_model(graph, "CPU", options).create_infer_request()
        request.set_tensor(request.model_inputs[0], openvino.Tensor(ready, shared_memory=True))
        rows[name] = request.infer
    about = {
        "anomalib": anomalib.__version__,
        "torch": torch.__version__,
        "openvino": openvino.__version__,
        "parameters": sum(p.numel() for p in model.model.parameters() if p.requires_grad),
        "input": str(shape),
        "outputs": [output.any_name for output in graph.outputs],
        "rows": list(rows),
    }
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        name, calls = line.rsplit(" ", 1)
        times = []
        for _ in range(int(calls)):
            started, used = time.perf_counter(), time.process_time()
            rows[name]()
            times.append((time.perf_counter() - started, time.process_time() - used))
        print(json.dumps(times), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
