"""Networks: one a file, and the table of their names."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from ..errors import UnknownNameError

NETWORKS = {
    "fast": "fast:FastNet",
    "plain": "plain:PlainNet",
    "deepdeblur": "deepdeblur:DeepDeblurNet",
}


def build_network(name: str, **options: Any) -> nn.Module:
    """An untrained network.

    Parameters
    ----------
    name : str
        One of :data:`NETWORKS`.
    **options
        Passed to its class.

    Raises
    ------
    UnknownNameError
        If no network has this name.
    """
    if name not in NETWORKS:
        raise UnknownNameError(f"No network is called {name!r}.", f"Known: {', '.join(NETWORKS)}.")
    module, _, attribute = NETWORKS[name].partition(":")
    network: nn.Module = getattr(importlib.import_module(f".{module}", __name__), attribute)(**options)
    return network
