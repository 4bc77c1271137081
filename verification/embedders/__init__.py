"""Verifiers: everything that turns an aligned face into an embedding, and their registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blurface.registry import Registry

if TYPE_CHECKING:
    from .base import Embedder

embedders: Registry[Embedder] = Registry("verifier", "blurface.verifiers")

_HERE = "verification.embedders"
for _name, _target, _summary, _source, _extra in (
    (
        "mobilefacenet",
        f"{_HERE}.mobilefacenet:MobileFaceNetEmbedder",
        "112x96, 128-D, CASIA-WebFace; also the teacher of the facial loss",
        "Chen et al. 2018",
        None,
    ),
):
    embedders.register(_name, _target, summary=_summary, source=_source, extra=_extra)


def create_embedder(name: str, **options: Any) -> Embedder:
    """Build the verifier called ``name``.

    Parameters
    ----------
    name : str
        One of :func:`list_embedders`; ``onnx:PATH`` for a file.
    **options
        Passed to its class: ``weights`` (path), ``data_root``, ``device``.

    Raises
    ------
    UnknownNameError
        If no verifier has this name.
    DataError
        If its weights are missing; the hint says what to place where.
    """
    return embedders.create(name, **options)


def list_embedders() -> list[str]:
    """Names of all verifiers, third parties' included."""
    return list(embedders)
