"""What every test shares: which markers run, and one Hypothesis profile."""

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# Many tests compile the same small programs, some in processes of their own: compile each once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Nearly all programs here run once, on little: LLVM's optimisation takes as long again as all the rest. The same HLO.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}".strip()

# Shrinking a failure of compiled code takes minutes and shows little that the first failure does not.
UNSHRUNK = [phase for phase in Phase if phase not in {Phase.shrink, Phase.explain}]
settings.register_profile(
    "faultline", deadline=None, max_examples=25, phases=UNSHRUNK, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("faultline")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = pytest.mark.skip(reason="takes ten seconds or more; run with SLOW=1")
    parity = pytest.mark.skip(reason="needs PyTorch; run make test PARITY=1")
    has_torch = importlib.util.find_spec("torch") is not None
    if os.environ.get("PARITY") and not has_torch:
        raise pytest.UsageError("PARITY=1, but PyTorch is not installed. Run make test PARITY=1.")
    for item in items:
        if item.get_closest_marker("slow") and not os.environ.get("SLOW"):
            item.add_marker(slow)
        if item.get_closest_marker("parity") and not has_torch:
            item.add_marker(parity)
