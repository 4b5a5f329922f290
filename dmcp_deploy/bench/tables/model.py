"""What a network takes at any widths: sums over rounded widths, no coefficient below zero."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dmcp_deploy.bench.tables.correct import Terms, correct
from dmcp_deploy.bench.tables.fit import Array, LayerFit, Samples, fit_calls, fit_layer
from dmcp_deploy.bench.tables.probes import LayerForm, ProbedGroup, WidthForm, Widths
from dmcp_deploy.bench.tables.table import LatencyTable, TableLayer, error_share
from dmcp_deploy.errors import DmcpError

#: The widest error bar that a budget can be kept by.
MOST_ERROR = 0.25

IntArray = npt.NDArray[np.int64]

#: Of the layers' time: what must step up by a rounding, for widths to be multiples of it.
_FROM = 0.25


@dataclass(frozen=True)
class LayerTimes:
    """What each layer takes: c0 + c1 R(in) + c2 R(out) + c3 R(in) R(out).

    R rounds a width up to a multiple. No coefficient is below zero: more channels never take less.

    Attributes:
        names: The layers, in graph order.
        coefficients: In milliseconds, shape [layers, 4].
        rounding: What the input and the output channels are rounded up to, shape [layers, 2].
    """

    names: tuple[str, ...]
    coefficients: Array
    rounding: IntArray

    def ms(self, inputs: IntArray, outputs: IntArray) -> Array:
        """Returns each layer's time, in milliseconds, shape [..., layers].

        Args:
            inputs: Channels that each layer reads, shape [..., layers].
            outputs: Channels that each layer writes, shape [..., layers].
        """
        terms = rounded_terms(np.asarray(inputs), np.asarray(outputs), self.rounding)
        return np.asarray((terms * self.coefficients).sum(axis=-1))


@dataclass(frozen=True)
class LatencyModel:
    """What the network of a latency table takes at any widths.

    Attributes:
        layers: What the layers take, as part of the middle call.
        fixed_ms: What every call takes besides.
        full_ms: The measured median of the full network.
        error_share: The relative error that 90% of networks stay below that were left out.
        forms: For each layer, how its channels follow from the groups; None where not known.
        groups: The groups that are narrowed.
        align: What was measured had widths in multiples of it, where a group is larger.
    """

    layers: LayerTimes
    fixed_ms: float
    full_ms: float
    error_share: float
    forms: tuple[LayerForm | None, ...]
    groups: Mapping[str, ProbedGroup]
    align: int

    def ms(self, inputs: IntArray, outputs: IntArray) -> Array:
        """Returns the middle latency of calls, in milliseconds, shape [...].

        Args:
            inputs: Channels that each layer reads, shape [..., layers].
            outputs: Channels that each layer writes, shape [..., layers].
        """
        return np.asarray(self.fixed_ms + self.layers.ms(inputs, outputs).sum(axis=-1))

    def channels(self, widths: Widths) -> tuple[IntArray, IntArray]:
        """Returns what each layer reads and writes at the groups' widths in channels.

        Raises:
            DmcpError: How they follow from the groups is not known.
        """
        unknown = [
            name for name, form in zip(self.layers.names, self.forms, strict=True) if not form
        ]
        if unknown:
            raise DmcpError(
                f"How the channels of {unknown[0]} follow from the plan's groups is not known:"
                " export the plan's network and give its ONNX file."
            )
        pairs = [
            (form.inputs.at(widths, self.groups), form.outputs.at(widths, self.groups))
            for form in self.forms
            if form is not None
        ]
        inputs, outputs = np.array(pairs).T
        return inputs, outputs

    def scaled(self, factor: float) -> LatencyModel:
        """Returns a model whose networks take so many times as long, the full one apart."""
        layers = replace(self.layers, coefficients=self.layers.coefficients * factor)
        return replace(self, layers=layers, fixed_ms=self.fixed_ms * factor)

    def steps(self) -> dict[str, int]:
        """Returns group -> channels by which its time steps up.

        They are a multiple of the network's rounding, and of `align`: between its multiples
        nothing was measured. One rounding serves all groups: kernels work in blocks of channels
        that the runtime chooses once, and off them it may leave its fast layout, which no sum of
        rounded widths tells.
        """
        return {name: self._step(group) for name, group in self.groups.items()}

    def edges(self) -> dict[str, tuple[int, ...]]:
        """Returns group -> channels at which its time is about to step up, and all of them."""
        sizes = {name: group.size for name, group in self.groups.items()}
        return {
            name: tuple(dict.fromkeys((*range(step, sizes[name], step), sizes[name])))
            for name, step in self.steps().items()
        }

    def _step(self, group: ProbedGroup) -> int:
        align = self.align if group.size > self.align else 1
        return math.lcm(self._rounding if group.size > self._rounding else 1, group.unit, align)

    @functools.cached_property
    def _rounding(self) -> int:
        """The largest rounding that, with larger ones, has a quarter of the full network's time."""
        widths = {name: group.size for name, group in self.groups.items()}
        inputs, outputs = self.channels(widths)
        terms = rounded_terms(inputs, outputs, self.layers.rounding) * self.layers.coefficients
        sides_ms = terms[:, 1:3] + terms[:, 3:]
        for rounding in sorted(set(self.layers.rounding.flat), reverse=True):
            if sides_ms[self.layers.rounding >= rounding].sum() >= _FROM * sides_ms.sum():
                return int(rounding)
        return 1


def latency_model(table: LatencyTable) -> LatencyModel:
    """Returns what a latency table says of its network at any widths.

    Layers of one shape share their samples. Whole calls are a line over the sum of the layers;
    where whole plans were measured, they correct both.
    """
    fitted = _fit_layers(table)
    return _corrected(fitted, table) if table.plans else fitted


def check_certain(model: LatencyModel) -> None:
    """Checks that a model's error bar is narrow enough to hold a budget by.

    Raises:
        DmcpError: It is not, as where a table was measured on a busy machine.
    """
    if model.error_share > MOST_ERROR:
        raise DmcpError(
            f"The latency table is too noisy to keep a budget by: 90% of networks are within"
            f" {model.error_share:.0%} of what it says, and {MOST_ERROR:.0%} are needed; build it"
            " again on a machine that does nothing else."
        )


def _corrected(model: LatencyModel, table: LatencyTable) -> LatencyModel:
    """Returns a model corrected by the ratios of whole plans to the full network beside them."""
    full = {name: group.size for name, group in model.groups.items()}
    plans = [full, *(plan.widths for plan in table.plans)]
    channels = np.array([model.channels(widths) for widths in plans])
    terms = rounded_terms(channels[:, 0], channels[:, 1], model.layers.rounding)
    flat = np.column_stack([terms.reshape(len(plans), -1), np.ones(len(plans))])
    shares = flat / flat[0]
    believed = np.append((terms[0] * model.layers.coefficients).ravel(), model.fixed_ms)
    measured_ms = model.full_ms * np.array([1.0, *(plan.ratio for plan in table.plans)])
    known = _known_terms(table, believed)
    corrected = correct(known, shares, measured_ms)
    coefficients = corrected.terms_ms / flat[0]
    return replace(
        model,
        layers=replace(model.layers, coefficients=coefficients[:-1].reshape(-1, 4)),
        fixed_ms=float(coefficients[-1]),
        error_share=error_share(1 + corrected.errors[1:], np.ones(len(table.plans))),
    )


def _known_terms(table: LatencyTable, believed_ms: Array) -> Terms:
    """Returns what is believed of the terms, and which of them are alike."""
    layers = table.layers
    layers_ms = np.repeat(believed_ms[:-1].reshape(-1, 4).sum(axis=1), 4)
    by_output = np.repeat([layer.kind == "depthwise" for layer in layers], 4)
    layers_ms[by_output & np.tile([False, True, False, True], len(layers))] = 0.0
    kinds = [(layer.kind, layer.kernel) for layer in layers]
    shapes = [layer.shape for layer in layers]
    alike = [_numbered(keys) for keys in (kinds, shapes, range(len(layers)))]
    return Terms(believed_ms, np.append(layers_ms, believed_ms[-1]), alike)


def _numbered(keys: Sequence[object]) -> IntArray:
    """Returns the same number for each term of the layers of one key; another for the last."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.append(np.repeat([numbers[key] for key in keys], 4), -1)


def _fit_layers(table: LatencyTable) -> LatencyModel:
    fits = _layer_fits(table)
    inputs, outputs = table_channels(table)
    rounding = np.array([fits[layer.name].rounding for layer in table.layers])
    coefficients = np.array([fits[layer.name].coefficients for layer in table.layers])
    layers = LayerTimes(tuple(fits), coefficients, rounding)
    low, median = np.array(table.whole.ms), np.array(table.median_ms)
    calls = fit_calls(layers.ms(inputs, outputs).sum(axis=1), low)
    usual = table.usual_factor
    left_out = np.sum([fit.left_out_ms for fit in fits.values()], axis=0)
    return LatencyModel(
        layers=replace(layers, coefficients=coefficients * calls.factor * usual),
        fixed_ms=calls.fixed_ms * usual,
        full_ms=table.full_ms,
        error_share=error_share(usual * calls.at(left_out), median),
        forms=tuple(map(_form, table.layers)),
        groups=table.groups,
        align=table.align,
    )


def table_channels(table: LatencyTable) -> tuple[IntArray, IntArray]:
    """Returns the input and output channels of each layer in each probe, [probes, layers] each."""
    inputs = np.array([layer.in_channels for layer in table.layers]).T
    outputs = np.array([layer.out_channels for layer in table.layers]).T
    return inputs, outputs


def rounded_terms(inputs: IntArray, outputs: IntArray, rounding: IntArray) -> Array:
    """Returns 1, R(in), R(out) and R(in) R(out) of each layer, shape [..., layers, 4]."""
    inputs, outputs = (
        -(-widths // rounding[:, side]) * rounding[:, side]
        for side, widths in enumerate((inputs, outputs))
    )
    ones = np.ones_like(inputs)
    return np.stack([ones, inputs, outputs, inputs * outputs], axis=-1).astype(np.float64)


def _layer_fits(table: LatencyTable) -> dict[str, LayerFit]:
    """Returns layer -> how its time follows from its widths, in graph order."""
    alike: dict[tuple[object, ...], list[TableLayer]] = {}
    for layer in table.layers:
        alike.setdefault(layer.shape, []).append(layer)
    fits = {}
    for same in alike.values():
        fit = fit_layer(_samples(same))
        shares = fit.left_out_ms.reshape(len(same), -1)
        fits.update(
            {
                layer.name: replace(fit, left_out_ms=left_out)
                for layer, left_out in zip(same, shares, strict=True)
            }
        )
    return {layer.name: fits[layer.name] for layer in table.layers}


def _samples(same: Sequence[TableLayer]) -> Samples:
    """Returns the samples of layers of one shape, by layer, then by probe."""
    channels = [(layer.in_channels, layer.out_channels) for layer in same]
    widths = np.concatenate(channels, axis=1, dtype=np.float64).T
    ms = np.concatenate([layer.total_ms for layer in same])
    return Samples(widths, ms, by_output=same[0].kind == "depthwise")


def _form(layer: TableLayer) -> LayerForm | None:
    channels = set(zip(layer.in_channels, layer.out_channels, strict=True))
    if layer.form is None and len(channels) == 1:
        ((inputs, outputs),) = channels
        return LayerForm(WidthForm(inputs, {}), WidthForm(outputs, {}))
    return layer.form
