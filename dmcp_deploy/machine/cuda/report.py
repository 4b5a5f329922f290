"""What this machine offers for running on a GPU, for people to read."""

from __future__ import annotations

from dataclasses import dataclass

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.machine.cuda.binding import (
    BINDINGS,
    is_installed,
    load_binding,
    not_installed,
    version_of,
)
from dmcp_deploy.machine.cuda.driver import DeviceInfo, DriverInfo, read_driver


@dataclass(frozen=True)
class BindingReport:
    """One of the Python libraries that call CUDA.

    Attributes:
        name: "cuda-python" or "pycuda".
        version: Its release; None where it is not installed.
        problem: Why it cannot be used, in one sentence; None if it can, or if it is installed
            and there is no driver to try it on.
    """

    name: str
    version: str | None
    problem: str | None


@dataclass(frozen=True)
class DeviceReport:
    """What this machine offers for running on a GPU.

    Attributes:
        bindings: Each library that this package can use, installed or not.
        driver: NVIDIA's driver; None where it does not start or has no device.
        problem: Why nothing can run on a GPU here, in one sentence; None if it can.
    """

    bindings: tuple[BindingReport, ...]
    driver: DriverInfo | None
    problem: str | None

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """The GPUs; none where there is no driver."""
        return self.driver.devices if self.driver else ()


def probe_devices() -> DeviceReport:
    """Returns what this machine offers; what is missing is told, never raised."""
    driver, problem = None, None
    try:
        driver = read_driver()
    except DmcpError as err:
        problem = str(err)
    bindings = tuple(_report(name, driver) for name in BINDINGS)
    if problem is None and all(binding.problem for binding in bindings):
        installed = [binding.problem for binding in bindings if binding.version]
        problem = installed[0] if installed else str(not_installed(list(BINDINGS)))
    return DeviceReport(bindings, driver, problem)


def _report(name: str, driver: DriverInfo | None) -> BindingReport:
    if not is_installed(name):
        return BindingReport(name, None, str(not_installed([name])))
    problem = None
    try:
        if driver is not None:
            load_binding(name, driver)
    except DmcpError as err:
        problem = str(err)
    return BindingReport(name, version_of(name) or "of unknown release", problem)
