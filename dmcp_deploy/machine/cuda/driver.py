"""NVIDIA's driver, asked directly: whether it loads, what it supports, which devices it has.

It needs neither pycuda nor cuda-python, which say less, and say it differently, when something
is missing.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from dmcp_deploy.errors import DmcpError, reason_of

LIBRARY = "libcuda.so.1"

_OUT_OF_MEMORY = 2
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

#: cuInit's error -> what it means and what to do; any other is named as CUDA names it.
_NO_START = {
    34: f"The {LIBRARY} that is found is the toolkit's stub and no driver: take its folder, often"
    " .../lib/stubs, off LD_LIBRARY_PATH.",
    100: "No CUDA device is detected: see that nvidia-smi lists one{visible}, and start a container"
    " with --gpus all, or on a Jetson with --runtime nvidia.",
    101: "The driver refuses the choice of devices{visible}: unset CUDA_VISIBLE_DEVICES, or name"
    " devices that nvidia-smi lists.",
    802: "The CUDA system is not ready yet: start nvidia-fabricmanager, or wait for it.",
    803: f"NVIDIA's {LIBRARY} and its kernel module are of different versions: reboot, or install"
    " the driver anew.",
    804: "CUDA's compatibility libraries do not serve this GPU: take them, often"
    " .../cuda/compat, off LD_LIBRARY_PATH.",
}


class CudaError(DmcpError):
    """A CUDA call that failed.

    Attributes:
        out_of_memory: Whether memory was what it lacked.
    """

    def __init__(self, call: str, reason: str, *, out_of_memory: bool = False) -> None:
        """Makes the sentence of a call, such as "cuMemAlloc", and CUDA's reason."""
        remedy = (
            "end other programs that use the GPU, or take smaller batches"
            if out_of_memory
            else "if it persists, see dmesg for NVIDIA's messages (Xid) and reboot"
        )
        super().__init__(f"CUDA's {call} failed, {reason}: {remedy}.")
        self.out_of_memory = out_of_memory


@dataclass(frozen=True)
class DeviceInfo:
    """One GPU.

    Attributes:
        ordinal: Its number in CUDA, after CUDA_VISIBLE_DEVICES.
        name: As NVIDIA calls it.
        compute_capability: (8, 7) for Orin.
        memory_bytes: All of it; on a Jetson what it shares with the processor.
    """

    ordinal: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True)
class DriverInfo:
    """NVIDIA's driver.

    Attributes:
        cuda_version: The newest CUDA that it supports, as (13, 0).
        version: Its own, such as "580.65.06"; None where the kernel does not tell.
        devices: The GPUs it lets this process use; one at least.
    """

    cuda_version: tuple[int, int]
    version: str | None
    devices: tuple[DeviceInfo, ...]


def read_driver() -> DriverInfo:
    """Starts the driver and returns what it says; no context is made and no memory taken.

    Raises:
        DmcpError: There is no driver, it does not start, or it has no device.
    """
    library = _load()
    _start(library)
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise DmcpError(_NO_START[100].format(visible=_visible()))
    devices = tuple(_device(library, ordinal) for ordinal in range(count.value))
    return DriverInfo(_cuda_version(library), _module_version(), devices)


def choose_device(driver: DriverInfo, ordinal: int) -> DeviceInfo:
    """Returns the device of a number.

    Raises:
        DmcpError: There is none of that number.
    """
    if not 0 <= ordinal < len(driver.devices):
        raise DmcpError(
            f"There is no CUDA device {ordinal}{_visible()}: this machine has"
            f" {len(driver.devices)}, numbered from 0"
            f" ({', '.join(device.name for device in driver.devices)})."
        )
    return driver.devices[ordinal]


def current_context() -> int:
    """Returns the address of the CUDA context current in this thread; 0 for none."""
    context = ctypes.c_void_p()
    _call(_load(), "cuCtxGetCurrent", ctypes.byref(context))
    return context.value or 0


def push_context(context: int) -> None:
    """Makes a CUDA context current in this thread, over those it has."""
    _call(_load(), "cuCtxPushCurrent_v2", ctypes.c_void_p(context))


def pop_context() -> None:
    """Takes the current CUDA context off this thread."""
    _call(_load(), "cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as err:
        raise DmcpError(
            f"There is no NVIDIA driver here ({reason_of(err)}): install one, and start a"
            " container with --gpus all, or on a Jetson with --runtime nvidia."
        ) from err
    if not hasattr(library, "cuInit"):
        raise DmcpError(_NO_START[34])
    return library


def _start(library: ctypes.CDLL) -> None:
    code = library.cuInit(0)
    if code in _NO_START:
        raise DmcpError(_NO_START[code].format(visible=_visible()))
    if code:
        raise DmcpError(
            f"NVIDIA's driver does not start, {_reason(library, code)}: see that nvidia-smi works;"
            " reload the driver or reboot where it does not."
        )


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    code = getattr(library, name)(*arguments)
    if code:
        raise CudaError(name, _reason(library, code), out_of_memory=code == _OUT_OF_MEMORY)


def _reason(library: ctypes.CDLL, code: int) -> str:
    """Returns an error as "CUDA_ERROR_UNKNOWN (999, unknown error)"."""
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    library.cuGetErrorName(code, ctypes.byref(name))
    library.cuGetErrorString(code, ctypes.byref(text))
    known = (name.value or b"error").decode()
    return f"{known} ({code}, {(text.value or b'unknown').decode()})"


def _device(library: ctypes.CDLL, ordinal: int) -> DeviceInfo:
    name, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(library, "cuDeviceGet", ctypes.byref(device), ordinal)
    _call(library, "cuDeviceGetName", name, len(name), device)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(size), device)
    _call(library, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(library, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    text = name.value.decode(errors="replace")
    return DeviceInfo(ordinal, text, (major.value, minor.value), size.value)


def _cuda_version(library: ctypes.CDLL) -> tuple[int, int]:
    version = ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def _module_version() -> str | None:
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _visible() -> str:
    """Returns a remark on CUDA_VISIBLE_DEVICES where it is set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES is {value!r})"
