"""Our own networks' weights: safetensors files that say which network they belong to.

A published model is ``blurface/weights/NAME.safetensors`` with a model card ``NAME.md`` and, where
calibrated, a sidecar ``NAME.json`` (gate thresholds). The file's metadata name the network and its
options, so that loading needs neither a configuration nor code from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnknownNameError, WeightsError
from .files import write_atomic
from .networks import build_network

FOLDER = Path(__file__).parent / "weights"

FORMAT = "1"


def list_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def model_path(name: str | Path) -> Path:
    """File of a packaged model, or the path itself if it ends in ``.safetensors``.

    Raises
    ------
    UnknownNameError
        If the package has no such model.
    """
    path = Path(name)
    if path.suffix == ".safetensors":
        return path
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        known = ", ".join(list_models()) or "none yet"
        raise UnknownNameError(
            f"The package holds no weights called {str(name)!r}.",
            f"Packaged: {known}. Train them with: blurface train --config configs/{name}.toml.",
        )
    return path


def save_model(
    path: Path, state: dict[str, Tensor], network: str, options: dict[str, Any], note: dict[str, Any]
) -> None:
    """Write a model atomically.

    Parameters
    ----------
    path : Path
    state : dict
        The network's state dictionary.
    network : str
        Name in ``blurface.networks.NETWORKS``.
    options : dict
        Its constructor's options.
    note : dict
        How it was trained.
    """
    from safetensors.torch import save

    metadata = {
        "format": "pt",
        "blurface": FORMAT,
        "network": network,
        "options": json.dumps(options, sort_keys=True),
        "note": json.dumps(note, sort_keys=True),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_atomic(path, save(tensors, metadata))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A model file and its metadata, which name the network."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "network" not in metadata:
                raise WeightsError(
                    f"{path} does not say which network it belongs to.",
                    "Expected a file that blurface train wrote.",
                )
            if metadata.get("blurface", FORMAT) != FORMAT:
                raise WeightsError(
                    f"{path} is of format {metadata['blurface']!r}; this blurface reads {FORMAT!r}.",
                    "Update blurface (pip install --upgrade blurface).",
                )
            yield file, metadata
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist.", "Check the path.") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is no safetensors file or is damaged: {error}.", "Get or train it again."
        ) from error


def network_name(path: Path) -> str:
    """Name of the network that a weight file belongs to, by which its restorer is called.

    Raises
    ------
    WeightsError
        If there is no such file, or it is not a blurface model.
    """
    with _opened(path) as (_, metadata):
        return metadata["network"]


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; None where all are finite."""
    return next((name for name, value in state.items() if not bool(value.isfinite().all())), None)


def load_model(name: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network and load its weights.

    Parameters
    ----------
    name : str or Path
        A packaged model's name, or a ``.safetensors`` file.

    Returns
    -------
    (nn.Module, dict)
        The network in evaluation mode, and its note.

    Raises
    ------
    UnknownNameError
        If the package has no such model.
    WeightsError
        If the file is not a blurface model, is damaged, or does not fit its network.
    """
    path = model_path(name)
    with _opened(path) as (file, metadata):
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    try:
        note = json.loads(metadata.get("note", "{}"))
        network = build_network(metadata["network"], **json.loads(metadata.get("options", "{}"))).float()
        network.load_state_dict({key: value.float() for key, value in state.items()})
        if spoilt := not_finite(state):
            raise WeightsError(f"{path}: {spoilt} holds NaN or infinite weights.", "Train it again.")
    except (UnknownNameError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not fit the network {metadata['network']!r}: {str(error).splitlines()[0]}",
            "It may come from another version of blurface.",
        ) from error
    return network.eval().requires_grad_(False), note


@lru_cache(maxsize=32)
def _digest(path: Path, size: int, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_digest(name: str | Path) -> str:
    """SHA-256 of a model's file."""
    path = model_path(name)
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


def bf16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 convolutions run natively there (else they are emulated, and very slow)."""
    device = torch.device(device)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    try:
        features = torch.cpu.get_capabilities()
    except AttributeError:
        return False
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
