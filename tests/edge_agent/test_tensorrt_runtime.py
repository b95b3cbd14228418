"""The TensorRT engine on a stand-in for CUDA: its scores, its slots, its errors, and that it frees what it took."""

import threading

import numpy as np
import pytest
from cuda_stand_in import StandIn
from tiny_bundle import golden_arrays, parts, tiny_model, write_bundle

from edge_agent.bundle import open_bundle
from edge_agent.engines import EngineError
from edge_agent.engines.tensorrt import DeviceLost, build_engine, open_tensorrt
from edge_agent.engines.tensorrt.cuda import OutOfMemory

ILLEGAL = "an illegal memory access was encountered"


@pytest.fixture
def machine(monkeypatch):
    """A Jetson that isn't one; whatever a test does, no rule of CUDA may have been broken."""
    machine = StandIn().install(monkeypatch)
    yield machine
    assert machine.broken == []


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(write_bundle(tmp_path / "bundle", model=tiny_model()))


@pytest.fixture
def engine(machine, bundle, tmp_path):
    """Batches from 1 to 4, two slots."""
    build_engine(bundle, flavour="tensorrt", cache=tmp_path / "cache", batch_sizes=(1, 1, 4))
    engine = open_tensorrt(bundle, flavour="tensorrt", cache=tmp_path / "cache")
    yield engine
    engine.close()
    assert machine.sticky or machine.leaks() == []


def assert_right(scores, images):
    right = golden_arrays(images)
    for name, array in scores._asdict().items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, right[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("n", [1, 3, 4, 1])
def test_scores_are_the_models(engine, n):
    images = parts(n, seed=n)
    assert_right(engine.run(images), images)


def test_the_batch_may_change_from_call_to_call(engine):
    for n in (1, 4, 2, 4, 1):
        assert_right(engine.run(parts(n, seed=n)), parts(n, seed=n))


def test_answers_are_the_callers_to_keep(engine):
    first = engine.run(parts(2, seed=1))
    kept = [values.copy() for values in first]
    engine.run(parts(2, seed=2))
    engine.close()
    for values, before in zip(first, kept, strict=True):
        assert type(values) is np.ndarray
        np.testing.assert_array_equal(values, before)


def test_images_that_lie_scattered_in_memory_are_scored_alike(engine):
    images = parts(4)
    assert_right(engine.run(images[::2, :, ::-1]), np.ascontiguousarray(images[::2, :, ::-1]))


def test_two_batches_are_under_way_at_one_time_and_are_collected_in_any_order(engine):
    assert engine.slots == 2
    tickets = [engine.submit(parts(n, seed=n)) for n in (2, 3)]
    assert_right(engine.collect(tickets[1]), parts(3, seed=3))
    third = engine.submit(parts(1, seed=9))
    assert_right(engine.collect(tickets[0]), parts(2, seed=2))
    assert_right(engine.collect(third), parts(1, seed=9))


def test_a_third_batch_has_to_wait(engine):
    tickets = [engine.submit(parts(1)) for _ in range(2)]
    with pytest.raises(EngineError, match="All 2 slots of the engine are taken. Collect a ticket"):
        engine.submit(parts(1))
    for ticket in tickets:
        engine.collect(ticket)
    with pytest.raises(EngineError, match=f"Ticket {tickets[1] + 1} is not under way"):
        engine.collect(tickets[1] + 1)


def test_a_ticket_is_collected_once(engine):
    ticket = engine.submit(parts(1))
    engine.collect(ticket)
    with pytest.raises(EngineError, match=f"Ticket {ticket} is not under way: each is collected once"):
        engine.collect(ticket)


def test_nothing_is_allocated_per_frame(machine, engine):
    before = machine.allocations
    for n in (1, 2, 4, 3):
        engine.collect(engine.submit(parts(n)))
    assert machine.allocations == before


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (parts(5), "built for batches of 1 to 4, and got 5 images"),
        (parts(1).astype(np.float32), r"float32 \[1, 12, 16, 3\]; it takes uint8"),
        (parts(1)[:, :8], r"uint8 \[1, 8, 16, 3\]"),
        (parts(1)[:0], r"uint8 \[0, 12, 16, 3\]"),
    ],
)
def test_wrong_images_are_refused_and_the_engine_goes_on(engine, images, said):
    with pytest.raises(EngineError, match=said):
        engine.run(images)
    assert_right(engine.run(parts(2)), parts(2))


def test_it_is_used_by_another_thread_than_made_it(engine):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(engine.run(parts(2))))
    thread.start()
    thread.join()
    assert_right(answers[0], parts(2))


def test_close_frees_everything_also_in_another_thread_and_with_a_batch_under_way(machine, engine):
    engine.submit(parts(3))
    thread = threading.Thread(target=engine.close)
    thread.start()
    thread.join()
    assert machine.leaks() == []
    engine.close()
    with pytest.raises(EngineError, match="The engine was closed"):
        engine.run(parts(1))
    with pytest.raises(EngineError, match="The engine was closed"):
        engine.collect(1)


def test_a_part_that_scores_nan_is_the_decisions_matter(machine, engine):
    machine.changes_scores = lambda scores: {**scores, "image_score": np.full_like(scores["image_score"], np.nan)}
    assert np.isnan(engine.run(parts(2)).image_score).all()


@pytest.mark.parametrize("call", ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "execute"])
def test_an_error_in_the_middle_of_a_batch_is_a_sentence_and_the_next_batch_is_right(machine, engine, call):
    machine.fail_next[call] = "invalid argument"
    with pytest.raises(EngineError, match=r"The GPU failed while scoring a batch: .*invalid argument"):
        engine.run(parts(2))
    assert_right(engine.run(parts(2, seed=5)), parts(2, seed=5))


@pytest.mark.parametrize("call", ["cuStreamSynchronize", "cuMemcpyHtoDAsync", "execute", "cuCtxPushCurrent"])
def test_a_sticky_error_ends_the_engine_for_good_and_close_is_harmless(machine, engine, call):
    machine.fail_next[call] = ILLEGAL
    with pytest.raises(DeviceLost, match=f"{ILLEGAL}.*CUDA is lost to this process; only a new process"):
        engine.run(parts(2))
    machine.sticky = None  # even if a call went through again: nothing of this engine is trusted any more
    with pytest.raises(DeviceLost, match="CUDA is lost to this process"):
        engine.run(parts(2))
    machine.sticky = ILLEGAL
    engine.close()
    engine.close()


def test_a_sticky_error_of_one_batch_takes_the_other_with_it(machine, engine):
    tickets = [engine.submit(parts(1)) for _ in range(2)]
    machine.fail_next["cuStreamSynchronize"] = "unspecified launch failure"
    for ticket in tickets:
        with pytest.raises(DeviceLost):
            engine.collect(ticket)


def test_a_sticky_error_while_closing_is_logged(machine, engine, caplog):
    machine.fail_next["cuStreamSynchronize"] = ILLEGAL
    engine.close()
    assert f"The GPU failed while closing the engine: cuStreamSynchronize failed: {ILLEGAL}" in caplog.text


@pytest.mark.parametrize(
    ("call", "text", "kind", "said"),
    [
        ("cuMemAlloc", "out of memory", OutOfMemory, "too little memory for loading the engine"),
        ("cuMemHostAlloc", "out of memory", OutOfMemory, "too little memory for loading the engine"),
        ("create_execution_context", "Error Code 2: OutOfMemory (requested 9 bytes)", OutOfMemory, "too little memory"),
        ("cuDevicePrimaryCtxRetain", "all CUDA-capable devices are busy", EngineError, "opening the GPU"),
        ("cuInit", "no CUDA-capable device is detected", EngineError, "CUDA can't be used here: .*no CUDA-capable"),
    ],
)
def test_an_engine_that_can_not_be_opened_leaves_nothing_behind(machine, bundle, tmp_path, call, text, kind, said):
    build_engine(bundle, flavour="tensorrt", cache=tmp_path / "cache")
    machine.fail_next[call] = text
    with pytest.raises(kind, match=said):
        open_tensorrt(bundle, flavour="tensorrt", cache=tmp_path / "cache")
    assert machine.leaks() == []
    open_tensorrt(bundle, flavour="tensorrt", cache=tmp_path / "cache").close()
    assert machine.leaks() == []


def test_an_engine_of_another_model_than_the_bundles_is_refused(machine, bundle, tmp_path, monkeypatch):
    build_engine(bundle, flavour="tensorrt", cache=tmp_path / "cache")
    monkeypatch.setattr(machine.trt.DataType, "FLOAT", "HALF")
    with pytest.raises(EngineError, match="The engine's tensors .* the bundle's are .* Build it again"):
        open_tensorrt(bundle, flavour="tensorrt", cache=tmp_path / "cache")


def test_a_gpu_that_is_not_there(machine, bundle, tmp_path):
    with pytest.raises(EngineError, match=r"device is 2, but CUDA counts 1 GPU\(s\) here, from 0"):
        open_tensorrt(bundle, flavour="tensorrt", cache=tmp_path / "cache", device=2)
    machine.gpus = 0
    with pytest.raises(EngineError, match="CUDA sees no GPU here"):
        open_tensorrt(bundle, flavour="tensorrt", cache=tmp_path / "cache")
