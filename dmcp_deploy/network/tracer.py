"""A torch.fx tracer that knows sizes where Python asks for them and leaves them open elsewhere."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute

from dmcp_deploy.network.foreign import traced_through
from dmcp_deploy.network.known_values import Values
from dmcp_deploy.network.layers import is_layer
from dmcp_deploy.network.misfit import describe
from dmcp_deploy.network.upstream import upstream

#: Functions that make tensors of sizes: they stay in the graph where a size is computed.
_CONSTRUCTORS = (
    *(torch.arange, torch.zeros, torch.ones, torch.full, torch.empty, torch.eye, torch.linspace),
    *(torch.rand, torch.randn, torch.tensor),
)
#: What a proxy tells of the machine or the arithmetic, which may be others when the graph runs.
_PASSING_FACTS = {"device", "dtype", "is_cuda", "is_meta", "layout", "requires_grad"}

#: Layers of torch that are but a function of the operation table.
_FUNCTIONS = {nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.PixelShuffle, nn.PixelUnshuffle}


class UntraceableError(Exception):
    """A module's forward cannot be traced; `path` is where it lies in the network."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path


def settled(value: Any, seen: Any) -> None:
    """Checks, while a graph runs, a value on which Python decided when the graph was traced.

    Raises:
        ValueError: It is another one now, so that the graph is not the network's forward pass.
    """
    if value != seen:
        what = "a condition on" if isinstance(seen, bool) else "Python's count of"
        raise ValueError(
            f"{what} sizes in its forward pass was {seen} when it was traced and is {value}"
        )


def traced_graph(model: nn.Module, opaque: Mapping[str, str], values: Values) -> fx.Graph:
    """Returns the graph of a module's forward pass on images.

    Args:
        model: The module; torch.fx hangs constants on it.
        opaque: Module in it -> why it is not traced but called as a whole.
        values: Tells the values of nodes.

    Raises:
        UntraceableError: A module in it cannot be traced.
        Exception: Whatever the module's own forward raises.
    """
    return _Tracer(opaque, values).trace(model)


class _Tracer(fx.Tracer):
    """Traces a module's forward pass on images, with its hooks; other arguments keep defaults.

    Sizes stay symbolic, so that they follow narrower layers. Where Python itself needs one (a
    condition, a count of a loop) it gets the one at the given input, and the graph a check that
    it is still that one.
    """

    def __init__(self, opaque: Mapping[str, str], values: Values) -> None:
        super().__init__(autowrap_functions=_CONSTRUCTORS)
        self._autowrap_search.append(torch)
        self._opaque, self._values = opaque, values
        self._lent: list[dict[str, Any]] = []
        self._settled: set[tuple[fx.Node, Any]] = set()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        try:
            with traced_through(), torch.enable_grad():
                return super().trace(root, concrete_args)
        finally:
            for names in self._lent:
                for name in _LENT:
                    del names[name]

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        images = self.create_proxy("placeholder", "images", (), {})
        return lambda root, images: root(images), [self.root, images]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self._opaque or is_layer(m):
            return True
        return type(m) not in _FUNCTIONS and super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._values.looking:
            return forward(*args, **kwargs)
        self._lend(getattr(m.forward, "__globals__", None))
        if m is self.root or not self._is_installed(m):
            return forward(*args, **kwargs)
        try:
            return self._as_called(m, super().call_module(m, forward, args, kwargs), args)
        except UntraceableError:
            raise
        except Exception as err:
            # A foreign forward under a proxy may raise anything; the module becomes opaque.
            raise UntraceableError(self.path_of_module(m), describe(err)) from err

    def _as_called(self, module: nn.Module, value: Any, args: tuple[Any, ...]) -> Any:
        """Returns a module's value without its gradients, where the forward pass wants none.

        Hooks that only look at the value of a layer are shown it.
        """
        if not is_layer(module):
            return value
        for hook in module._forward_hooks.values():
            with suppress(Exception):  # What a hook does to the value, the layer's node does.
                hook(module, args, value)
        return value if torch.is_grad_enabled() else value.detach()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._values.looking:
            return attr_val
        # What is computed of them must follow weights that are loaded later; small and whole
        # numbers are mostly flags, on which Python decides.
        self.proxy_buffer_attributes = (
            isinstance(attr_val, Tensor) and attr_val.is_floating_point() and attr_val.ndim > 0
        )
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.settle(obj, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        items: Any = obj
        return (items[i] for i in range(self.settle(obj, len)))

    def known(self, obj: fx.Proxy, read: Callable[[Any], Any]) -> Any:
        """Returns what a function reads from a value, where that is always the same."""
        return self._values.read(obj.node, read)

    def settle(self, obj: fx.Proxy, read: Callable[[Any], Any]) -> Any:
        """Returns what Python reads from a value, and notes in the graph that it has done so."""
        value = self._values.read(obj.node, read)
        key = (obj.node, read)
        if key not in self._settled and not _tells_passing_facts(obj.node):
            self._settled.add(key)
            again = self.create_proxy("call_function", read, (obj,), {})
            self.create_proxy("call_function", settled, (again, value), {})
        return value

    def _is_installed(self, module: nn.Module) -> bool:
        """Returns whether a module is one of the network's, not one made in a forward pass."""
        assert self.submodule_paths is not None
        if module in self.submodule_paths:
            return True
        if next(module.parameters(), None) is not None:
            raise TypeError(f"its forward pass makes a {type(module).__name__} anew in every call")
        return False

    def _lend(self, names: dict[str, Any] | None) -> None:
        """Lets code with these global names ask proxies what else only values could answer."""
        if names is not None and names.keys().isdisjoint(_LENT):
            names.update(_LENT)
            self._lent.append(names)


class _Settling:
    """What Python asks of a proxy that needs a true number."""

    tracer: Any

    def __getattr__(self, name: str) -> Any:
        return _Attribute(self, name)  # type: ignore[arg-type]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        return int(self.tracer.settle(self, len))

    def __int__(self) -> int:
        return int(self.tracer.settle(self, int))

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.tracer.settle(self, float))


class _Proxy(_Settling, fx.Proxy):
    pass


class _Attribute(_Settling, Attribute):
    pass


def _length(value: Any) -> Any:
    if isinstance(value, fx.Proxy):
        return value.tracer.create_proxy("call_function", len, (value,), {})
    return len(value)


def _is_instance(value: Any, kinds: Any) -> bool:
    if isinstance(value, fx.Proxy):
        tracer: Any = value.tracer
        return bool(tracer.known(value, lambda known: isinstance(known, kinds)))
    return isinstance(value, kinds)


#: What stands in for Python's own functions in the modules whose forward is traced.
_LENT: dict[str, Any] = {"len": _length, "isinstance": _is_instance}


def _tells_passing_facts(node: fx.Node) -> bool:
    """Returns whether a value comes from what is not a matter of shapes."""
    sources = upstream([node], lambda source: source.op not in ("call_function", "call_method"))
    return any(s.target is getattr and s.args[1] in _PASSING_FACTS for s in sources)
