"""Plain JSON of layers and the channels they keep: {"features.0.0": 24, ...}."""

from __future__ import annotations

import json

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.widths import LayerWidth, PublishedPlan, channels, shortened

FORM = "json"


def read_layers(text: str) -> PublishedPlan:
    """Returns what a mapping of layers' names to channels says; others are kept whole.

    Raises:
        DmcpError: It is no such mapping.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise DmcpError(f"it is not readable as JSON ({err}).") from err
    if not isinstance(content, dict) or not content:
        raise DmcpError(f'it holds {shortened(content)}, where {{"layer": channels}} is needed.')
    layers = tuple(LayerWidth(name, channels(width, name)) for name, width in content.items())
    return PublishedPlan(FORM, layers, complete=False)
