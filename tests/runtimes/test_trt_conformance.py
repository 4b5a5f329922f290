"""Every name of TensorRT that this package uses is in the real bindings of every release."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

import pytest
from trt_bindings import (
    VERSIONS,
    Binding,
    UnavailableError,
    read_binding,
    read_installed,
)

from dmcp_deploy.runtimes import trt_api

RTX = "tensorrt-rtx"
PARAMETER = re.compile(r", (\w+): [^=]*?(?= = |, \w+: |\) -> )( = )?")


@pytest.fixture(scope="module", params=[*VERSIONS, RTX])
def binding(request: pytest.FixtureRequest) -> Binding:
    try:
        if request.param == RTX:
            return read_installed(RTX, "tensorrt_rtx")
        return read_binding(request.param)
    except UnavailableError as err:
        pytest.skip(str(err))


@pytest.mark.slow
@pytest.mark.xdist_group("trt_bindings")
class TestBindings:
    def test_what_is_used_is_there_or_guarded_for_exactly_this_flavour(self, binding):
        assert differences(trt_api, binding) == []

    def test_methods_take_the_parameters_that_they_are_given(self, binding):
        assert misfits(trt_api, binding) == []

    def test_nothing_else_would_pass(self, binding):
        """The dump is no catch-all: names of TensorRT 8 and of nobody are not in it."""
        assert "Builder.build_engine" not in binding
        assert "Builder.no_such_thing" not in binding
        assert "NoSuchClass.log" not in binding
        assert "Builder.create_network" in binding


def test_every_guard_is_of_a_name_in_use_and_of_a_known_flavour():
    names = set(names_used(trt_api))
    assert set(trt_api.GUARDED) <= names
    for flavours in trt_api.GUARDED.values():
        assert flavours
        assert flavours < {"tensorrt", RTX}


def test_what_is_used_is_found_in_the_protocols():
    names = set(names_used(trt_api))
    assert {"TensorRT.Builder", "Builder.create_network", "IHostMemory.nbytes"} <= names
    assert {"IHostMemory.__buffer__", "BuilderFlag.GPU_FALLBACK"} <= names
    assert not [name for name in names if name.endswith((".__init__", ".__doc__"))]


# The checks themselves, on a made-up API and a made-up release.


class Engine(Protocol):
    size: int

    def run(self, name: str, shape: list[int]) -> bool: ...


class TensorRT(Protocol):
    Flag: Any

    def Engine(self, plan: bytes) -> Engine: ...  # noqa: N802


def made_up_api(**changes: Any) -> SimpleNamespace:
    parts = {"Engine": Engine, "TensorRT": TensorRT, "ENUM_MEMBERS": {"Flag": ("FP16",)}}
    return SimpleNamespace(**{"__name__": __name__, "GUARDED": {}, **parts, **changes})


def made_up_release(**changes: dict[str, list[str]]) -> Binding:
    engine = {
        "__init__": ["__init__(self: t.Engine, plan: bytes) -> None"],
        "size": [],
        "run": ["run(self: t.Engine, name: str, shape: t.Dims, wait: bool = True) -> bool"],
    }
    top = {"Flag": [], "Engine": []}
    classes = {"Engine": engine, "Flag": {"FP16": []}, "TensorRT": top, **changes}
    return Binding("tensorrt", "1.0", classes)


def test_a_release_that_has_all_passes():
    assert differences(made_up_api(), made_up_release()) == []
    assert misfits(made_up_api(), made_up_release()) == []


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [
        ({"Engine": {"size": []}}, ["Engine.run"]),
        ({"Flag": {"INT8": []}}, ["Flag.FP16"]),
        ({"TensorRT": {"Engine": []}}, ["TensorRT.Flag"]),
    ],
)
def test_a_release_that_lacks_a_name_fails(lacking, missing):
    release = made_up_release(**lacking)
    assert differences(made_up_api(), release) == [
        f"tensorrt 1.0 lacks {name}, and no guard says so" for name in missing
    ]


def test_a_guard_must_name_exactly_the_flavours_that_have_it():
    lacking = made_up_release(Engine={"run": []})
    rtx_only = made_up_api(GUARDED={"Engine.size": frozenset({RTX})})
    assert differences(rtx_only, lacking) == []
    assert differences(rtx_only, made_up_release()) == [
        "tensorrt 1.0 has Engine.size, and its guard says it has not"
    ]
    both = made_up_api(GUARDED={"Engine.size": frozenset({RTX, "tensorrt"})})
    assert differences(both, lacking) == ["tensorrt 1.0 lacks Engine.size, and no guard says so"]


@pytest.mark.parametrize(
    "signature",
    [
        "run(self: t.Engine, name: str) -> bool",
        "run(self: t.Engine, shape: t.Dims, name: str) -> bool",
        "run(self: t.Engine, name: str, shape: t.Dims, wait: bool) -> bool",
    ],
    ids=["fewer", "another order", "one more that has no default"],
)
def test_a_method_with_other_parameters_fails(signature):
    engine = {**made_up_release().classes["Engine"], "run": [signature]}
    release = made_up_release(Engine=engine)
    assert misfits(made_up_api(), release) == [
        f"tensorrt 1.0: Engine.run does not take name, shape: {signature}"
    ]


def test_one_overload_that_fits_is_enough():
    fitting = "run(self: t.Engine, name: str, shape: t.Dims) -> bool"
    engine = {"run": ["run(self: t.Engine, name: str) -> bool", fitting]}
    engine |= {"__init__": made_up_release().classes["Engine"]["__init__"]}
    assert misfits(made_up_api(), made_up_release(Engine=engine)) == []


def differences(api: ModuleType | SimpleNamespace, binding: Binding) -> list[str]:
    """Returns a sentence for every name that a release lacks or has against what `api` says."""
    label, found = f"{binding.flavour} {binding.version}", []
    for name in names_used(api):
        expected = binding.flavour in api.GUARDED.get(name, {binding.flavour})
        if expected and name not in binding:
            found.append(f"{label} lacks {name}, and no guard says so")
        if not expected and name in binding:
            found.append(f"{label} has {name}, and its guard says it has not")
    return found


def misfits(api: ModuleType | SimpleNamespace, binding: Binding) -> list[str]:
    """Returns a sentence for every method whose parameters are not those of the release."""
    found = []
    for name, method in methods(api):
        wanted = list(inspect.signature(method).parameters)[1:]
        if name not in binding or name.endswith("__"):
            continue
        signatures = binding.signatures(name)
        if not any(takes(signature, wanted) for signature in signatures):
            shown = "; ".join(signatures) or "no signature"
            label = f"{binding.flavour} {binding.version}"
            found.append(f"{label}: {name} does not take {', '.join(wanted)}: {shown}")
    return found


def takes(signature: str, wanted: list[str]) -> bool:
    """Tells whether a method can be called with these, in order or by name, and no more."""
    parameters = PARAMETER.findall(signature)
    names = [name for name, _ in parameters]
    rest = parameters[len(wanted) :]
    return names[: len(wanted)] == wanted and all(default for _, default in rest)


def names_used(api: ModuleType | SimpleNamespace) -> Iterator[str]:
    for cls, protocol in protocols(api):
        if cls != "TensorRT":
            yield f"TensorRT.{cls}"
        yield from (f"{cls}.{name}" for name in inspect.get_annotations(protocol))
    yield from (name for name, _ in methods(api))
    for enum, members in api.ENUM_MEMBERS.items():
        yield from (f"{enum}.{member}" for member in members)


def methods(api: ModuleType | SimpleNamespace) -> Iterator[tuple[str, Any]]:
    for cls, protocol in protocols(api):
        for name, value in vars(protocol).items():
            # Protocols get an __init__ of their own, from `typing`.
            if inspect.isfunction(value) and value.__module__ == api.__name__:
                yield f"{cls}.{name}", value


def protocols(api: ModuleType | SimpleNamespace) -> Iterator[tuple[str, type]]:
    for name, value in vars(api).items():
        if isinstance(value, type) and value.__module__ == api.__name__:
            yield name, value
