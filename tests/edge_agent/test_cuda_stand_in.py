"""The stand-in for CUDA and TensorRT says no to what they would say no to: each rule, broken on purpose."""

import threading

import numpy as np
import pytest
from cuda_stand_in import RuleBroken, StandIn


@pytest.fixture
def machine() -> StandIn:
    return StandIn()


@pytest.fixture
def context(machine):
    context = machine.driver.Device(0).retain_primary_context()
    context.push()
    return context


def filled(driver, values) -> np.ndarray:
    array = driver.pagelocked_empty(np.shape(values), np.float32)
    np.copyto(array, values)
    return array


def test_a_copy_there_and_back_arrives_when_the_stream_is_synchronised(machine, context):
    driver, values = machine.driver, np.arange(6, dtype=np.float32).reshape(2, 3)
    there, memory, stream = filled(driver, values), driver.mem_alloc(24), driver.Stream()
    back = driver.pagelocked_empty((2, 3), np.float32)
    driver.memcpy_htod_async(memory, there, stream)
    driver.memcpy_dtoh_async(back, memory, stream)
    stream.synchronize()
    np.testing.assert_array_equal(back.copy(), values)
    assert machine.broken == []


def test_a_result_is_not_there_before_its_stream_was_synchronised(machine, context):
    driver = machine.driver
    memory, stream, back = driver.mem_alloc(8), driver.Stream(), driver.pagelocked_empty((2,), np.float32)
    driver.memcpy_dtoh_async(back, memory, stream)
    with pytest.raises(RuleBroken, match="reading a pinned buffer before its stream was synchronised"):
        back.copy()
    with pytest.raises(RuleBroken, match="before its stream was synchronised"):
        np.copyto(np.empty(2, np.float32), back)
    with pytest.raises(RuleBroken, match="before its stream was synchronised"):
        back + 1


def test_an_input_is_not_overwritten_while_it_is_copied(machine, context):
    driver = machine.driver
    there, memory, stream = filled(driver, [1, 2]), driver.mem_alloc(8), driver.Stream()
    driver.memcpy_htod_async(memory, there[:1], stream)
    with pytest.raises(RuleBroken, match="writing a pinned buffer"):
        there[0] = 3
    stream.synchronize()
    there[0] = 3


def test_memory_is_freed_once_and_not_used_afterwards(machine, context):
    driver = machine.driver
    there, memory, stream = filled(driver, [1, 2]), driver.mem_alloc(8), driver.Stream()
    memory.free()
    with pytest.raises(driver.LogicError, match="invalid resource handle"):
        memory.free()
    with pytest.raises(RuleBroken, match="copying to memory that was freed"):
        driver.memcpy_htod_async(memory, there, stream)
    there.base.free()
    with pytest.raises(driver.LogicError, match="invalid resource handle"):
        there.base.free()
    with pytest.raises(RuleBroken, match="reading pinned memory that was freed"):
        there.copy()
    assert len(machine.broken) == 4


def test_pageable_memory_is_not_copied_asynchronously(machine, context):
    driver = machine.driver
    with pytest.raises(RuleBroken, match="cuMemcpyHtoDAsync with memory that is not pinned"):
        driver.memcpy_htod_async(driver.mem_alloc(8), np.zeros(2, np.float32), driver.Stream())


def test_a_copy_fits_what_was_allocated(machine, context):
    driver = machine.driver
    with pytest.raises(RuleBroken, match="8 bytes of 4"):
        driver.memcpy_htod_async(driver.mem_alloc(4), filled(driver, [1, 2]), driver.Stream())


def test_a_context_belongs_to_the_threads_that_pushed_it(machine, context):
    caught = []

    def elsewhere() -> None:
        try:
            machine.driver.mem_alloc(8)
        except RuleBroken as error:
            caught.append(str(error))

    thread = threading.Thread(target=elsewhere, name="line")
    thread.start()
    thread.join()
    assert caught == ["cuMemAlloc with no context current in thread line"]


def test_a_sticky_error_comes_back_at_every_call(machine, context):
    stream = machine.driver.Stream()
    machine.fail_next["cuStreamSynchronize"] = "an illegal memory access was encountered"
    for call in (stream.synchronize, stream.synchronize, lambda: machine.driver.mem_alloc(8), context.push):
        with pytest.raises(machine.driver.LogicError, match="illegal memory access"):
            call()


def test_an_execution_needs_every_address(machine, context):
    from tiny_bundle import tiny_model

    head = b'{"tensorrt": "10.3.0", "sm": [8, 7], "shapes": {"image": [[1, 12, 16, 3]]}}\n'
    engine = machine.trt.Runtime(None).deserialize_cuda_engine(head + tiny_model())
    executing = engine.create_execution_context()
    stream = machine.driver.Stream()
    with pytest.raises(
        RuleBroken, match=r"without the address of \['anomaly_map', 'image', 'image_score', 'raw_score'\]"
    ):
        executing.execute_async_v3(stream.handle)
    for name in ("anomaly_map", "image", "image_score", "raw_score"):
        executing.set_tensor_address(name, int(machine.driver.mem_alloc(1000)))
    with pytest.raises(RuleBroken, match=r"without the shape of \['image'\]"):
        executing.execute_async_v3(stream.handle)


def test_what_was_not_freed_is_told(machine, context):
    machine.driver.mem_alloc(8)
    kept = machine.driver.pagelocked_empty((2,), np.uint8)
    assert machine.leaks() == ["1 of device memory", "1 of pinned memory", "1 of contexts", "1 of contexts current"]
    assert kept.nbytes == 2
