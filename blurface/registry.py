"""Named extension points, open to other packages by entry points.

A registry maps a name to an *entry*: where its factory lives (``"module:attribute"``, imported
only when the entry is created), a one-line summary and its source. Restorers, verifiers, kernel
sets and protocols each have one. Another package adds to it in its ``pyproject.toml``::

    [project.entry-points."blurface.restorers"]
    mine = "my_package.restorer:MyRestorer"

The summary of such an entry is the first line of the factory's docstring.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import BlurfaceError, InputError, MissingDependencyError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes
    ----------
    name : str
        What users type.
    target : str or callable
        ``"module:attribute"`` or the factory itself.
    summary : str
        One line for listings.
    source : str
        Paper, section or package that it implements.
    extra : str or None
        The blurface extra that carries its dependencies (``pip install blurface[extra]``).
    provider : str
        Distribution that registered it.
    """

    name: str
    target: str | Callable[..., Any]
    summary: str = ""
    source: str = ""
    extra: str | None = None
    provider: str = "blurface"

    def load(self) -> Callable[..., Any]:
        """Import and return the factory.

        Raises
        ------
        MissingDependencyError
            If a module that the factory needs is not installed.
        """
        if callable(self.target):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except AttributeError as error:
            raise BlurfaceError(
                f"{self.name!r} of {self.provider} names {self.target!r}, which is not there.",
                f"Correct the entry point, or install another version of {self.provider}.",
            ) from error
        except ImportError as error:
            if isinstance(error, BlurfaceError):
                raise
            hint = f"Install it with: pip install 'blurface[{self.extra}]'." if self.extra else ""
            raise MissingDependencyError(f"{self.name!r} cannot be imported: {error}.", hint) from error
        return factory


class Registry(Generic[T]):
    """Names and their factories.

    Parameters
    ----------
    kind : str
        The word for one entry in messages, e.g. ``"restorer"``.
    group : str
        Entry-point group through which other packages add entries.

    Notes
    -----
    A name may carry an argument after a colon (``onnx:face.onnx``, ``folder:photos``): the part
    before the colon is looked up and the rest is passed to the factory as its first argument.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry] = {}
        self._scanned = False

    def register(
        self,
        name: str,
        target: str | Callable[..., Any],
        *,
        summary: str = "",
        source: str = "",
        extra: str | None = None,
    ) -> None:
        """Add or replace the entry ``name``."""
        self._entries[name] = Entry(name, target, summary, source, extra)

    def entry(self, name: str) -> Entry:
        """The entry of ``name`` (without its argument).

        Raises
        ------
        UnknownNameError
            If there is none; the message lists the nearest names.
        """
        self._scan()
        key = name.partition(":")[0]
        if key not in self._entries:
            near = difflib.get_close_matches(key, self._entries, n=3, cutoff=0.4)
            known = "Did you mean " + " or ".join(near) + "?" if near else f"Known: {', '.join(self)}."
            raise UnknownNameError(f"No {self.kind} is called {key!r}.", known)
        return self._entries[key]

    def create(self, name: str, **options: Any) -> T:
        """Build the object called ``name``, passing ``options`` to its factory.

        Raises
        ------
        UnknownNameError
            If no entry has this name.
        BlurfaceError
            If the factory does not take one of the options, or makes nothing of their values.
        """
        entry = self.entry(name)
        factory = entry.load()
        _, colon, argument = name.partition(":")
        arguments = (argument,) if colon else ()
        taken = ""
        try:
            signature = inspect.signature(factory)
            taken = f"Its options are {signature}."
            signature.bind(*arguments, **options)
        except TypeError as error:
            given = ", ".join(options) or "none"
            raise BlurfaceError(
                f"The {self.kind} {entry.name!r} cannot be built: {error} (options given: {given}).", taken
            ) from error
        except ValueError:  # no signature to be had (a builtin): let the call itself speak
            pass
        try:
            created: T = factory(*arguments, **options)
        except BlurfaceError:
            raise
        except (TypeError, ValueError) as error:
            given = ", ".join([*map(repr, arguments), *(f"{key}={options[key]!r}" for key in options)])
            raise InputError(
                f"The {self.kind} {entry.name!r} cannot be built from {given or 'nothing'}: {error}.", taken
            ) from error
        return created

    def entries(self) -> list[Entry]:
        """All entries in the order of registration."""
        self._scan()
        return list(self._entries.values())

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter(list(self._entries))

    def __contains__(self, name: object) -> bool:
        self._scan()
        return isinstance(name, str) and name.partition(":")[0] in self._entries

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        for point in importlib.metadata.entry_points(group=self.group):
            if point.name in self._entries:
                continue
            provider = point.dist.name if point.dist is not None else "?"
            self._entries[point.name] = Entry(
                point.name, point.value, summary=f"added by {provider}", provider=provider
            )
