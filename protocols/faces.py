"""Faces in whole photographs: found, aligned, restored, and pasted back without a seam.

What is pasted is the *difference* that restoration makes in the aligned frame, brought back to the
photograph and faded out around the face. So a face that the gate lets pass changes nothing, no
pixel is resampled twice, and detail of the photograph finer than the frame stays. Detail finer
than the frame (112 x 112 pixels a face) is not restored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from blurface.collection import Mend, Mended
from blurface.gate import action
from blurface.packets import unpack
from blurface.stage import DeblurStage, Decision, resolve_device
from verification.align import align, frame_size
from verification.detect import Detector, DetectorSettings

FRAME = "112x112"
MARGIN = 24
"""Pixels around the frame, at its scale, over which the restoration fades out."""


@dataclass(frozen=True)
class Difference:
    """What restoration changes in one face.

    Attributes
    ----------
    pixels : ndarray
        (H, W, 3) float32: restored minus blurry, in [-1, 1], in the frame with its margin.
    matrix : ndarray
        (2, 3) float64: maps (x, y, 1) of the photograph to ``pixels``.
    """

    pixels: NDArray[np.float32]
    matrix: NDArray[np.float64]


def fade(frame: str = FRAME, margin: int = MARGIN) -> NDArray[np.float32]:
    """Weights of a face's pixels: 1 in the frame, falling to 0 over the margin by a raised cosine.

    Returns
    -------
    ndarray
        (H + 2 margin, W + 2 margin) float32 in [0, 1].
    """
    ramps = []
    for length in frame_size(frame):
        distance = np.minimum(np.arange(length + 2 * margin), np.arange(length + 2 * margin)[::-1])
        ramps.append(0.5 - 0.5 * np.cos(np.pi * np.clip(distance / margin, 0, 1)))
    weights: NDArray[np.float32] = np.outer(*ramps).astype(np.float32)
    return weights


def paste(
    photograph: NDArray[np.float32], differences: list[Difference], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Add what restoration changes in each face to a photograph.

    Parameters
    ----------
    photograph : ndarray
        (H, W, 3) float32 RGB in [0, 1].
    differences : list of Difference
        One a face; where faces overlap, their changes are averaged by their weights.
    weights : ndarray
        (h, w) float32, as :func:`fade`.

    Returns
    -------
    ndarray
        (H, W, 3) float32 in [0, 1]; equal to ``photograph`` outside of the faces.
    """
    height, width = photograph.shape[:2]
    change = np.zeros_like(photograph)
    total = np.zeros((height, width), np.float32)
    for face in differences:
        inverse = np.linalg.inv(np.vstack([face.matrix, [0.0, 0.0, 1.0]]))[:2]
        h, w = weights.shape
        corners = inverse @ np.array([[0, w, w, 0], [0, 0, h, h], [1, 1, 1, 1]])
        left, top = np.clip(np.floor(corners.min(axis=1)), 0, [width, height]).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(axis=1)) + 1, 0, [width, height]).astype(int)
        if left >= right or top >= bottom:
            continue
        x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
        at = np.stack(
            [face.matrix[row, 0] * x + face.matrix[row, 1] * y + face.matrix[row, 2] for row in (1, 0)]
        )
        # A face smaller than the frame is reduced on its way back: smoothed first, against aliasing.
        scale = math.hypot(face.matrix[0, 0], face.matrix[1, 0])
        sigma = 0.5 * math.sqrt(max(scale**2 - 1, 0))
        weight = ndimage.map_coordinates(weights, at, order=1)
        window = np.s_[top:bottom, left:right]
        total[window] += weight
        for channel in range(3):
            plane = ndimage.gaussian_filter(face.pixels[..., channel], sigma, mode="nearest")
            change[(*window, channel)] += weight * ndimage.map_coordinates(plane, at, order=3, mode="nearest")
    pasted = photograph + change / np.maximum(total, 1)[..., None]
    return pasted.clip(0, 1).astype(np.float32)


def by_faces(stage: DeblurStage, *, device: str = "auto", settings: DetectorSettings | None = None) -> Mend:
    """Restore the faces in photographs with a stage.

    Parameters
    ----------
    stage : DeblurStage
    device : str
        Where faces are looked for.
    settings : DetectorSettings, optional

    Returns
    -------
    callable
        For :func:`blurface.collection.restore_jobs`. The decision of a photograph is that of its
        most blurred face; without a face it passes.

    Raises
    ------
    MissingDependencyError
        If torchvision does not fit torch.
    """
    detector = Detector(settings or DetectorSettings(), resolve_device(device))
    weights = fade()

    def mend(pictures: list[Image.Image]) -> list[Mended]:
        packets = [unpack(picture) for picture in pictures]
        chunks = [next(iter(packet.chunks(1))) for packet in packets]
        photographs = [chunk.load()[0].permute(1, 2, 0).contiguous().numpy() for chunk in chunks]
        eight_bit = [(photograph * 255).round().astype(np.uint8) for photograph in photographs]
        found = detector.find_all(eight_bit)
        aligned = [
            (owner, align(eight_bit[owner], points, FRAME, MARGIN))
            for owner, faces in enumerate(found)
            for points in faces.points
        ]
        crops = [face.pixels.astype(np.float32) / 255 for _, face in aligned]
        restored, decisions = stage(crops, return_info=True)
        mended: list[Mended] = []
        for owner, (packet, chunk, picture) in enumerate(zip(packets, chunks, pictures, strict=True)):
            own = [row for row, (which, _) in enumerate(aligned) if which == owner]
            changed = [row for row in own if decisions[row].weight > 0]
            note = "" if own else "no face found"
            score = max(
                (d.score for d in (decisions[row] for row in own) if d.score is not None), default=None
            )
            weight = max((decisions[row].weight for row in own), default=0.0)
            decision = Decision(score, weight, action(weight))
            if not changed:
                mended.append(Mended(picture, decision, note))
                continue
            shift = np.array([[0.0, 0.0, MARGIN], [0.0, 0.0, MARGIN]])
            differences = [
                Difference(restored[row] - crops[row], aligned[row][1].matrix + shift) for row in changed
            ]
            pasted = paste(photographs[owner], differences, weights)
            chunk.store(torch.from_numpy(pasted).permute(2, 0, 1)[None])
            mended.append(Mended(packet.result(), decision, note))
        return mended

    return mend
