"""What the examples share: a photograph that a dependency ships, and the same one blurred by motion."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

import blurface
from blurface.kernels.convolve import blur
from blurface.kernels.linear import linear_psf

PHOTOGRAPH = "scikit-image's 'astronaut' (NASA, public domain)"


def photographs(length: float = 9, angle: float = 45) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A sharp photograph and its motion-blurred copy, (512, 512, 3) uint8 RGB."""
    sharp = data.astronaut()
    batch = torch.from_numpy(sharp).permute(2, 0, 1)[None].float() / 255
    blurry = blur(batch, torch.from_numpy(linear_psf(length, angle)), border="replicate")[0]
    return sharp, (blurry * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def stage_from_arguments(description: str, arguments: Sequence[str] | None = None) -> blurface.DeblurStage:
    """``--model`` and ``--weights`` of every example."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="fast", help="a restorer's name (default: %(default)s)")
    parser.add_argument("--weights", help="a .safetensors file of it (default: the packaged one)")
    given = parser.parse_args(arguments)
    options = {"weights": given.weights} if given.weights else {}
    return blurface.DeblurStage.from_pretrained(given.model, **options)


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Cosine of the angle between two embeddings."""
    a, b = np.ravel(a), np.ravel(b)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def report(names: Sequence[str], values: Sequence[float], note: str = "") -> None:
    """Print similarities to the sharp face; one photograph is an illustration, no benchmark."""
    print(f"Similarity to the sharp face, one photograph ({PHOTOGRAPH}); an illustration, no benchmark.")
    if note:
        print(note)
    for name, value in zip(names, values, strict=True):
        print(f"  {name:<10} {value:.4f}")
