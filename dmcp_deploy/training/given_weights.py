"""Weights that others have saved, taken into a network, and what is to be said of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.network.graph import Network
from dmcp_deploy.text_table import few
from dmcp_deploy.training.matching import Match, Matcher
from dmcp_deploy.training.weight_files import Stored
from dmcp_deploy.training.weights import load_state, misfit_error

_AVERAGED = re.compile(r"(^|[._])(ema|swa|shadow|averaged?)([._]|$)", re.IGNORECASE)


def load_given(
    network: Network, stored: Sequence[Stored], source: str, place: str = ""
) -> list[str]:
    """Loads weights that others have saved of a network, wherever they lie in a file.

    Of averaged weights and those that they average, the averaged ones are taken. A classifier for
    other classes stays as it is.

    Args:
        network: The network; its model is changed in place.
        stored: What lies in the file.
        source: Its name, for messages.
        place: Where in the file they must lie; "" for anywhere.

    Returns:
        What was chosen and what was left out, in sentences.

    Raises:
        DmcpError: Nothing there fits the network.
    """
    matcher = Matcher(network)
    matches = [match for one in stored for match in matcher.matches(one)]
    wanted = [m for m in matches if not place or f"{m.place}.".startswith(f"{place}.")]
    if not wanted:
        places = ", ".join(match.place or "its top (no place)" for match in matches)
        raise DmcpError(f"{source} has no weights under {place!r}: they lie under {places}.")
    fitting = [match for match in wanted if not match.flaws]
    if not fitting:
        raise misfit_error(source, max(wanted, key=lambda match: match.agreeing).flaws)
    chosen = min(fitting, key=lambda match: not _AVERAGED.search(match.place))
    if flaws := matcher.contradictions(chosen.tensors):
        raise misfit_error(source, flaws)
    load_state(network.model, chosen.tensors)
    return [*_choice(source, chosen, fitting), *_omission(source, chosen)]


def _choice(source: str, chosen: Match, fitting: Sequence[Match]) -> list[str]:
    others = list(dict.fromkeys(m.place for m in fitting if m.place and m.place != chosen.place))
    if not others:
        return []
    taken = "averaged weights" if _AVERAGED.search(chosen.place) else "weights"
    return [
        f"{source}: the {taken} under {chosen.place or 'no key'} are taken; others lie under"
        f" {', '.join(others)} (--weights {source}:{others[0]})."
    ]


def _omission(source: str, chosen: Match) -> list[str]:
    parts = [f"{few(sorted(names))} ({why})" for why, names in chosen.left_out.items()]
    return [f"Left out of {source}: {'; '.join(parts)}"] if parts else []
