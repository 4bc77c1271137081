"""Networks: one a file, and the table of their names."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn

from ..errors import InputError, UnknownNameError

NETWORKS = {
    "fast": "fast:FastNet",
    "plain": "plain:PlainNet",
    "deepdeblur": "deepdeblur:DeepDeblurNet",
}

_LEAST = {
    **dict.fromkeys(("width", "deep", "kernel_width", "kernel_deep", "modules", "loops", "stages"), 1),
    "channels": 2,
}
"""Least value of options that are sizes; a network of none is built without complaint, and fails later."""


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
    InputError
        If it cannot be built with these options.
    """
    if name not in NETWORKS:
        raise UnknownNameError(f"No network is called {name!r}.", f"Known: {', '.join(NETWORKS)}.")
    module, _, attribute = NETWORKS[name].partition(":")
    kind = getattr(importlib.import_module(f".{module}", __name__), attribute)
    try:
        for option, least in _LEAST.items():
            value = options.get(option, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{option} must be a whole number, {least} or more")
        network: nn.Module = kind(**options)
    except (TypeError, ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
        known = ", ".join(inspect.signature(kind).parameters)
        raise InputError(
            f"The network {name!r} cannot be built with {options}: {error}.", f"Its options: {known}."
        ) from error
    return network
