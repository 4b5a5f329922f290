"""What a device does over any binding, tried on the host-memory CUDA driver.

`run_all` is called in a process that finds that driver; each trial leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import time
import traceback
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from host_cuda import HostFunctions, device_floats, left_behind, live, setting

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.device import Device, open_device

MB = 1_000_000


def run_all(binding: str) -> None:
    """Prints, as JSON, each trial's name with the traceback it ended in, or None."""
    trials = {**TRIALS, **(GRAPH_TRIALS if binding == "cuda-python" else NO_GRAPH_TRIALS)}
    print(json.dumps({name: _failure(trial, binding) for name, trial in trials.items()}))


def a_roundtrip_returns_what_was_sent(binding: str) -> None:
    with open_device(binding) as device:
        for array in (
            np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
            np.arange(7, dtype=np.int64),
            np.ones((3, 5), np.float16),
        ):
            buffer = device.alloc(array.nbytes)
            sent, back = device.pinned(array.shape, array.dtype), np.zeros_like(array)
            sent[...] = array
            device.copy_in(buffer, sent)
            device.copy_out(back, buffer)
            device.synchronize()
            np.testing.assert_array_equal(back, array)
            assert (sent.shape, sent.dtype) == (array.shape, array.dtype)


def a_short_array_fills_the_start_of_a_buffer(binding: str) -> None:
    with open_device(binding) as device:
        buffer = device.alloc(64)
        device.copy_in(buffer, np.zeros(16, np.float32))
        device.copy_in(buffer, np.array([1, 2], np.float32))
        back = np.empty(16, np.float32)
        device.copy_out(back, buffer)
        device.synchronize()
        assert back.tolist() == [1, 2] + [0] * 14


def copies_of_pinned_memory_wait_in_the_stream(binding: str) -> None:
    with open_device(binding) as device:
        buffer = device.alloc(8)
        source, target = device.pinned(2), device.pinned(2)
        source[:], target[:] = (1, 2), (0, 0)
        device.copy_in(buffer, source)
        device.copy_out(target, buffer)
        assert target.tolist() == [0, 0], "the host-memory driver is late on purpose"
        device.synchronize()
        assert target.tolist() == [1, 2]


def the_stream_runs_what_others_enqueue_on_its_handle(binding: str) -> None:
    kernels = HostFunctions()
    with open_device(binding) as device:
        images, logits = device.alloc(12), device.alloc(12)
        x, y = device.pinned(3), device.pinned(3)
        x[:] = (1, 2, 3)
        device.copy_in(images, x)
        kernels.enqueue(device.stream.handle, lambda: _double(images.address, logits.address))
        device.copy_out(y, logits)
        device.synchronize()
        assert y.tolist() == [2, 4, 6]


def events_take_the_time_of_the_work_between(binding: str) -> None:
    kernels = HostFunctions()
    with open_device(binding) as device:
        start, end = device.event(), device.event()
        for sleep_s in (0.03, 0.0):
            device.record(start)
            kernels.enqueue(device.stream.handle, lambda seconds=sleep_s: time.sleep(seconds))
            device.record(end)
            begin = time.perf_counter()
            latency_ms = device.elapsed_ms(start, end)
            waited_ms = (time.perf_counter() - begin) * 1e3
            assert sleep_s * 1e3 <= latency_ms <= waited_ms + 0.001


def a_buffer_freed_early_makes_room(binding: str) -> None:
    with setting(DMCP_CUDA_MEMORY=str(10 * MB)), open_device(binding) as device:
        for _ in range(5):
            buffer = device.alloc(6 * MB)
            device.free(buffer)
        device.alloc(6 * MB)
        assert live("allocations") == 1
        with refused(AssertionError, "freed"):
            device.free(buffer)


def an_exception_in_the_block_frees_everything_and_is_kept(binding: str) -> None:
    with refused(ZeroDivisionError, "division"), open_device(binding) as device:
        device.copy_in(device.alloc(400), device.pinned(100))
        device.event()
        _ = 1 / 0


def what_fails_at_the_end_hides_nothing(binding: str) -> None:
    with (
        contextlib.ExitStack() as later,
        refused(ZeroDivisionError, "division"),
        open_device(binding) as device,
    ):
        device.alloc(400)
        later.enter_context(setting(DMCP_CUDA_FAIL="cuStreamSynchronize=700"))
        _ = 1 / 0


def a_failure_at_the_end_is_told_and_the_rest_is_freed(binding: str) -> None:
    with (
        contextlib.ExitStack() as later,
        refused(DmcpError, "cuStreamSynchronize failed, .*illegal memory access.*Xid"),
        open_device(binding) as device,
    ):
        device.alloc(400)
        device.pinned(3)
        later.enter_context(setting(DMCP_CUDA_FAIL="cuStreamSynchronize=700"))


def entering_that_fails_leaves_nothing(binding: str) -> None:
    calls = ["cuStreamCreate", "cuDevicePrimaryCtxRetain"]
    if binding == "cuda-python":  # pycuda pushes to let go as well, and prints that it cannot
        calls.append("cuCtxPushCurrent_v2")
    for call in calls:
        device = open_device(binding)
        with (
            setting(DMCP_CUDA_FAIL=f"{call}=2"),
            refused(DmcpError, "failed, .*out of memory.*: end other programs"),
            device,
        ):
            raise AssertionError(f"entered without {call}")
        assert left_behind() == {}, call


def a_device_that_is_never_entered_takes_nothing(binding: str) -> None:
    device = open_device(binding)
    assert left_behind() == {}
    for use in (lambda: device.alloc(1), lambda: device.stream, device.event, device.synchronize):
        with refused(AssertionError, "not entered"):
            use()


def a_closed_device_is_not_used_again(binding: str) -> None:
    with open_device(binding) as device:
        buffer, event = device.alloc(4), device.event()
    uses: list[Callable[[], object]] = [
        lambda: device.alloc(1),
        lambda: device.pinned(1),
        lambda: device.copy_in(buffer, np.zeros(1, np.float32)),
        lambda: device.record(event),
        lambda: device.free(buffer),
        device.synchronize,
        device.__enter__,
    ]
    for use in uses:
        with refused(AssertionError, "closed"):
            use()


def copies_that_cannot_be_meant_are_refused(binding: str) -> None:
    with open_device(binding) as device:
        buffer, constant = device.alloc(16), np.zeros(4, np.float32)
        constant.flags.writeable = False
        device.copy_in(buffer, constant)
        for array, words in (
            (np.zeros(5, np.float32), "20 over 16 bytes"),
            (np.zeros((2, 4), np.float32)[:, ::2], "not contiguous"),
        ):
            with refused(AssertionError, words):
                device.copy_in(buffer, array)
            with refused(AssertionError, words):
                device.copy_out(array, buffer)
        with refused(AssertionError, "read-only"):
            device.copy_out(constant, buffer)


def another_devices_buffer_is_refused(binding: str) -> None:
    with setting(DMCP_CUDA_DEVICES="2"), open_device(binding, 0) as first:
        buffer = first.alloc(4)
        with open_device(binding, 1) as second, refused(AssertionError, "another device's"):
            second.copy_in(buffer, np.zeros(1, np.float32))
        first.synchronize()


def devices_may_be_nested(binding: str) -> None:
    with setting(DMCP_CUDA_DEVICES="2"), open_device(binding, 0) as outer:
        for ordinal in (0, 1):
            with open_device(binding, ordinal) as inner:
                assert (inner.ordinal, inner.name) == (ordinal, f"Host memory {ordinal}")
                a_roundtrip(inner)
            assert live("current") == 1
            a_roundtrip(outer)


def a_context_that_was_current_is_current_again(binding: str) -> None:
    cuda, context, seen = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), ctypes.c_void_p()
    with setting(DMCP_CUDA_DEVICES="2"):
        cuda.cuInit(0)
        for ordinal in (0, 1):
            cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal)
            cuda.cuCtxPushCurrent_v2(context)
            with open_device(binding) as device:
                a_roundtrip(device)
            cuda.cuCtxGetCurrent(ctypes.byref(seen))
            assert (seen.value, live("current")) == (context.value, 1)
            cuda.cuCtxPopCurrent_v2(None)
            cuda.cuDevicePrimaryCtxRelease_v2(ordinal)


def a_full_gpu_is_one_sentence(binding: str) -> None:
    with setting(DMCP_CUDA_MEMORY=str(10 * MB)), open_device(binding) as device:
        device.alloc(4 * MB)
        with refused(DmcpError, r"no room for 7\.0 MB: 6\.0 MB of its 10\.0 MB are free; end"):
            device.alloc(7 * MB)
        a_roundtrip(device)


def a_failing_copy_is_one_sentence(binding: str) -> None:
    with open_device(binding) as device:
        buffer = device.alloc(4)
        with (
            setting(DMCP_CUDA_FAIL="cuMemcpyHtoDAsync_v2=700"),
            refused(DmcpError, "CUDA's cuMemcpyHtoDAsync failed, .*illegal memory access"),
        ):
            device.copy_in(buffer, np.zeros(1, np.float32))


def the_device_tells_what_it_is(binding: str) -> None:
    with setting(DMCP_CUDA_DEVICES="3", DMCP_CUDA_MEMORY=str(8 * MB)):
        device = open_device(binding, 2)
    assert (device.binding, device.ordinal, device.name) == (binding, 2, "Host memory 2")
    assert (device.compute_capability, device.memory_bytes) == ((8, 7), 8 * MB)
    assert device.driver_version.endswith("(CUDA 13.0)")
    assert device.supports_graphs == (binding == "cuda-python")


def a_captured_graph_runs_when_it_is_launched(binding: str) -> None:
    kernels = HostFunctions()
    with open_device(binding) as device:
        images, logits = device.alloc(12), device.alloc(12)
        x, y = device.pinned(3), device.pinned(3)
        y[:] = 0

        def enqueue() -> None:
            device.copy_in(images, x)
            kernels.enqueue(device.stream.handle, lambda: _double(images.address, logits.address))
            device.copy_out(y, logits)

        graph = device.capture(enqueue)
        device.synchronize()
        assert y.tolist() == [0, 0, 0], "recording must not run"
        for first in (1, 5):
            x[:] = (first, 2, 3)
            graph.launch()
            device.synchronize()
            assert y.tolist() == [2 * first, 4, 6]
        assert (live("graphs"), live("executables")) == (0, 1)
    with refused(AssertionError, "closed"):
        graph.launch()


def graphs_are_timed_by_events(binding: str) -> None:
    kernels = HostFunctions()
    with open_device(binding) as device:
        handle = device.stream.handle
        graph = device.capture(lambda: kernels.enqueue(handle, lambda: time.sleep(0.02)))
        start, end = device.event(), device.event()
        device.record(start)
        for _ in range(2):
            graph.launch()
        device.record(end)
        assert 40 <= device.elapsed_ms(start, end) < 10_000


def a_call_that_fails_while_it_is_recorded_leaves_the_stream_usable(binding: str) -> None:
    with open_device(binding) as device:
        with refused(ZeroDivisionError, "division"):
            device.capture(lambda: 1 / 0)
        assert live("graphs") == 0
        a_roundtrip(device)


def work_that_cannot_be_recorded_is_one_sentence(binding: str) -> None:
    words = "cannot be recorded as a CUDA graph .*: run it without one"
    with open_device(binding) as device:

        def waits() -> None:
            with contextlib.suppress(DmcpError):
                device.synchronize()

        with refused(DmcpError, words):
            device.capture(waits)
        with setting(DMCP_CUDA_FAIL="cuGraphInstantiateWithFlags=801"), refused(DmcpError, words):
            device.capture(lambda: None)
        assert (live("graphs"), live("executables")) == (0, 0)
        a_roundtrip(device)


def graphs_are_refused_where_there_are_none(binding: str) -> None:
    with open_device(binding) as device:
        assert not device.supports_graphs
        with refused(DmcpError, "pycuda has no CUDA graphs: pip install cuda-python"):
            device.capture(lambda: None)


Trial = Callable[[str], None]


def named(*trials: Trial) -> dict[str, Trial]:
    return {trial.__name__: trial for trial in trials}


#: Of every binding.
TRIALS = named(
    a_roundtrip_returns_what_was_sent,
    a_short_array_fills_the_start_of_a_buffer,
    copies_of_pinned_memory_wait_in_the_stream,
    the_stream_runs_what_others_enqueue_on_its_handle,
    events_take_the_time_of_the_work_between,
    a_buffer_freed_early_makes_room,
    an_exception_in_the_block_frees_everything_and_is_kept,
    what_fails_at_the_end_hides_nothing,
    a_failure_at_the_end_is_told_and_the_rest_is_freed,
    entering_that_fails_leaves_nothing,
    a_device_that_is_never_entered_takes_nothing,
    a_closed_device_is_not_used_again,
    copies_that_cannot_be_meant_are_refused,
    another_devices_buffer_is_refused,
    devices_may_be_nested,
    a_context_that_was_current_is_current_again,
    a_full_gpu_is_one_sentence,
    a_failing_copy_is_one_sentence,
    the_device_tells_what_it_is,
)

GRAPH_TRIALS = named(
    a_captured_graph_runs_when_it_is_launched,
    graphs_are_timed_by_events,
    a_call_that_fails_while_it_is_recorded_leaves_the_stream_usable,
    work_that_cannot_be_recorded_is_one_sentence,
)

NO_GRAPH_TRIALS = named(graphs_are_refused_where_there_are_none)


@contextlib.contextmanager
def refused(kind: type[Exception], words: str) -> Iterator[None]:
    """Expects an exception whose one line matches; pytest.raises without pytest's report."""
    with pytest.raises(kind, match=words) as caught:
        yield
    assert "\n" not in str(caught.value)


def a_roundtrip(device: Device) -> None:
    sent, back = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    buffer = device.alloc(sent.nbytes)
    device.copy_in(buffer, sent)
    device.copy_out(back, buffer)
    device.synchronize()
    np.testing.assert_array_equal(back, sent)


def _double(source: int, target: int) -> None:
    x, y = device_floats(source, 3), device_floats(target, 3)
    for i in range(3):
        y[i] = 2 * x[i]


def _failure(trial: Callable[[str], None], binding: str) -> str | None:
    before = live("mistakes")
    try:
        trial(binding)
        assert left_behind() == {}
        assert live("mistakes") == before, "the driver was called wrongly"
    except (Exception, pytest.fail.Exception):
        return traceback.format_exc()
    return None
