"""Tensors that a model has registered under several names, as shared modules have."""

from __future__ import annotations

from torch import Tensor, nn


def names_of_tensors(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Returns the name of every parameter and buffer -> all names of that tensor, its own first."""
    names: dict[int, list[str]] = {}
    for name, tensor in _registered(model):
        names.setdefault(id(tensor), []).append(name)
    return {
        name: (name, *(other for other in same if other != name))
        for same in names.values()
        for name in same
    }


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a model's state, with the versions of its modules.

    What else modules put into it (`get_extra_state`) is left out: their class makes it.
    """
    state = model.state_dict()
    for name in [name for name, value in state.items() if not isinstance(value, Tensor)]:
        del state[name]
    return state


def _registered(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
