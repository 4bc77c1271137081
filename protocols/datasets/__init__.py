"""Protocols: where the pictures and the pairs come from, behind one registry."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from blurface.registry import Registry

from .base import Gallery, Pair, PairList, Protocol

__all__ = ["Gallery", "Pair", "PairList", "Protocol", "create_protocol", "list_protocols", "protocols"]

protocols: Registry[Protocol] = Registry("protocol", "blurface.protocols")

for _name, _target, _summary, _source in (
    ("lfw", "lfw:lfw", "view 2: 3,000 genuine and 3,000 impostor pairs, ten folds", "Huang et al. 2007"),
    ("facescrub", "facescrub:facescrub", "3,000 genuine and 3,000 impostor drawn pairs", "Ng & Winkler 2014"),
    ("folder", "folder:folder", "photographs, one folder a person; folder:PATH", "the folder"),
    ("folder-aligned", "folder:aligned_folder", "112x112 ArcFace crops; folder-aligned:PATH", "the folder"),
):
    protocols.register(_name, f"protocols.datasets.{_target}", summary=_summary, source=_source)


def create_protocol(name: str, data_root: Path | None = None, **options: Any) -> Protocol:
    """Build the protocol called ``name`` (``"lfw"``, ``"facescrub"``, ``"folder:PATH"`` ...).

    Parameters
    ----------
    name : str
        One of :func:`list_protocols`, with its argument after a colon.
    data_root : Path, optional
        Where protocols that look for data look first.
    **options
        Passed to the protocol's factory, e.g. ``crops="aligned"`` for LFW.

    Raises
    ------
    UnknownNameError
        If no protocol has this name.
    DataError, PairsError
        If its data is missing or wrong.
    """
    if data_root is not None:
        factory = protocols.entry(name).load()
        if "data_root" in inspect.signature(factory).parameters:
            options["data_root"] = data_root
    return protocols.create(name, **options)


def list_protocols() -> list[str]:
    """Names of all protocols, third parties' included."""
    return list(protocols)
