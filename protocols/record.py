"""``run.json``: what was run, on what, from what; without the paths of the machine that ran it.

What a run writes may be published, so that folders stand there by name: ``DATA``, ``CACHE``, ``HOME``.
Where they lie on this machine is in ``local.json`` beside it, which is not for publishing.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurface import __version__, assets
from blurface.processes import processor_name, processors

if TYPE_CHECKING:
    from .runner import Evaluation

LOCAL = "local.json"
_VERSIONS = ("torch", "torchvision", "facenet-pytorch", "numpy", "scipy", "scikit-image", "pillow")

Places = dict[str, str]
"""Names by path, in the order in which they are tried."""


def places(data_root: Path | None = None) -> Places:
    """Names of this machine's folders: data roots, the cache, the working folder, home."""
    cache = assets.cache_folder()
    roots = [root for root in assets.data_roots(data_root) if cache not in root.parents]
    named = [(root, "DATA") for root in roots] + [(cache, "CACHE")]
    named += [(Path.cwd(), "."), (Path.home(), "HOME")]
    found: Places = {}
    for path, name in named:
        for form in (path, path.resolve()):
            if form.is_absolute() and form != Path(form.anchor):
                found.setdefault(str(form), name)
    return found


def hide(value: Any, known: Places) -> Any:
    """JSON values and keys with the names of folders in place of their paths; the longest path first."""
    if isinstance(value, dict):
        return {hide(key, known): hide(entry, known) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [hide(entry, known) for entry in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        for path in sorted(known, key=len, reverse=True):
            # Whole paths: not the end of a longer one, nor the beginning of a longer name.
            value = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![^/;,:\s'\"])", known[path], value)
    return value


def unhide(value: Any, known: Places) -> Any:
    """The inverse of :func:`hide` where a folder is known."""
    if isinstance(value, dict):
        return {unhide(key, known): unhide(entry, known) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [unhide(entry, known) for entry in value]
    if isinstance(value, str):
        for path, name in known.items():
            if name != ".":
                value = re.sub(rf"(?<![\w./-]){name}(?=/|$)", path.replace("\\", r"\\"), value)
    return value


def read_places(folder: Path) -> Places:
    """Where the folders of a run lay; on another machine, where its own lie."""
    try:
        content = json.loads((folder / LOCAL).read_text(encoding="utf-8"))
        lay = {str(path): str(name) for path, name in content.items() if Path(path).exists()}
    except (OSError, ValueError, AttributeError):
        lay = {}
    return lay | {path: name for path, name in places().items() if path not in lay}


def run_record(
    options: Mapping[str, Any], began: float, evaluation: Evaluation | None = None
) -> dict[str, Any]:
    """Command, options, versions, machine, fingerprints and times.

    Parameters
    ----------
    options : mapping
        As the command line has them.
    began : float
        ``time.time()`` when the run started.
    evaluation : Evaluation, optional
    """
    import torch

    versions = {"blurface": __version__, "python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    device = "cpu" if evaluation is None else evaluation.settings.device
    record: dict[str, Any] = {
        "command": ["blurface", *sys.argv[1:]],
        "options": dict(options),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "versions": versions,
        "machine": {
            "system": platform.platform(),
            "processor": processor_name(),
            "processors": processors(),
            "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        },
    }
    if evaluation is None:
        return record
    seconds = {name: round(value, 2) for name, value in evaluation.seconds.items()}
    return record | {
        "fingerprints": evaluation.fingerprints,
        "cells": {"computed": evaluation.computed, "reused": evaluation.reused},
        "processor_seconds": {k: v for k, v in seconds.items() if not k.startswith("wall")},
        "wall_seconds": {k: v for k, v in seconds.items() if k.startswith("wall")},
    }
