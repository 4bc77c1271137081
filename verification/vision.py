"""torchvision, on which the detector and some verifiers stand: what to say when it does not import."""

from __future__ import annotations

import importlib
from functools import cache

from blurface.errors import MissingDependencyError

_CPU = "https://download.pytorch.org/whl/cpu"


@cache
def require_torchvision() -> None:
    """Import torchvision, or say exactly what is wrong.

    A CPU build of torch beside the torchvision of PyPI, which is built for CUDA, does not import:
    its compiled part does not load, so that ``torchvision::nms`` is unknown to torch.

    Raises
    ------
    MissingDependencyError
        If it is missing, or does not fit the torch that is installed; the hint is the command
        that mends it.
    """
    try:
        _load()
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise MissingDependencyError(
            "torchvision is not installed.", "Install it: pip install torchvision"
        ) from error
    # A second import after a failed one ends in an AttributeError about a half-initialised module.
    except (RuntimeError, ImportError, AttributeError, OSError) as error:
        raise _misfit(error) from error


def _load() -> None:
    importlib.import_module("torchvision")


def _misfit(error: Exception) -> MissingDependencyError:
    import torch

    cpu = torch.version.cuda is None
    build = "a CPU build" if cpu else f"built for CUDA {torch.version.cuda}"
    index = f" --index-url {_CPU}" if cpu else ""
    return MissingDependencyError(
        f"torchvision does not fit torch {torch.__version__} ({build}): {error}.",
        "Install the torchvision that belongs to it: pip install --force-reinstall --no-deps"
        f" torchvision=={_partner(torch.__version__)}{index}",
    )


def _partner(version: str) -> str:
    """The torchvision release line made with a torch release: 0.(minor + 15) since torch 2.0."""
    minor = int(version.split(".")[1])
    return f"0.{minor + 15}.*"
