"""blurface: sharpen motion-blurred faces before they reach a face verifier.

>>> import blurface
>>> "fast" in blurface.list_restorers()
True

Names are imported when first used, so that ``import blurface`` and ``blurface --help`` do not pay
for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import BlurfaceError
    from .hooks import attach
    from .restorers import create_restorer, list_restorers
    from .stage import DeblurStage

_LAZY = {
    "BlurfaceError": "errors",
    "DeblurStage": "stage",
    "attach": "hooks",
    "create_restorer": "restorers",
    "list_restorers": "restorers",
}

__all__ = ["BlurfaceError", "DeblurStage", "__version__", "attach", "create_restorer", "list_restorers"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'blurface' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
