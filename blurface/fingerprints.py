"""Digests of code: what a stored result depends on beside options and weights."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from types import ModuleType
from typing import Any


@lru_cache
def code_digest(*modules: ModuleType | Callable[..., Any]) -> str:
    """Hash of what modules or functions compute: their syntax trees without docstrings and comments.

    Part of a key, so that results of other code are not taken for this code's.
    """
    digest = hashlib.sha256()
    for module in modules:
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                head = node.body[0] if node.body else None
                if (
                    isinstance(head, ast.Expr)
                    and isinstance(head.value, ast.Constant)
                    and isinstance(head.value.value, str)
                ):
                    node.body = node.body[1:] or [ast.Pass()]
        digest.update(ast.dump(tree, include_attributes=False).encode())
    return digest.hexdigest()[:16]


def modules_behind(start: type | Callable[..., Any], *packages: str) -> list[ModuleType]:
    """The module of a class or function, and those that it takes functions and classes from, all the way.

    Parameters
    ----------
    start : type or callable
        Where to begin.
    *packages : str
        Only modules in these packages are followed, e.g. ``"blurface.networks"``.

    Returns
    -------
    list of module
        Sorted by name, the first one's own module included, whatever its package.
    """
    waiting = [start.__module__]
    found: dict[str, ModuleType] = {}
    while waiting:
        name = waiting.pop()
        if name in found or name not in sys.modules:
            continue
        found[name] = sys.modules[name]
        for value in vars(found[name]).values():
            origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(origin, str) and any(
                origin == package or origin.startswith(f"{package}.") for package in packages
            ):
                waiting.append(origin)
    return [found[name] for name in sorted(found)]


def class_digest(kind: type, *packages: str) -> str:
    """:func:`code_digest` of all that a class stands on in packages; ``"?"`` where there is no source."""
    try:
        return code_digest(*modules_behind(kind, *packages))
    except (OSError, TypeError):  # made in a console, or compiled
        return "?"


def versions_of(*distributions: str) -> dict[str, str]:
    """Installed versions of packages; those that are not there are left out."""
    found = {}
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def code_and_versions(kind: type, distributions: tuple[str, ...], *packages: str) -> dict[str, Any]:
    """:func:`class_digest`, and :func:`versions_of` where there are any: the last part of a fingerprint."""
    versions = {"versions": versions_of(*distributions)} if distributions else {}
    return {"code": class_digest(kind, *packages), **versions}
