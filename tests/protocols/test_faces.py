"""Faces in photographs: only they change, without a seam, at any size and angle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from blurface.gate import Gate
from blurface.restorers.base import Restorer
from blurface.stage import DeblurStage
from protocols.faces import FRAME, MARGIN, Difference, by_faces, fade, paste
from verification.align import TEMPLATES, align, similarity


class Brighter(Restorer):
    """x + 0.1, and a kernel estimate: a line of five pixels."""

    name = "brighter-test"

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        estimate = torch.zeros(batch.shape[0], 5, 5)
        estimate[:, 2] = 0.2
        return batch + 0.1, estimate


SHIFT = np.array([[0.0, 0.0, MARGIN], [0.0, 0.0, MARGIN]])


def test_fade_is_one_in_the_frame_and_zero_at_the_border() -> None:
    weights = fade()
    assert weights.shape == (112 + 2 * MARGIN, 112 + 2 * MARGIN)
    assert weights[MARGIN:-MARGIN, MARGIN:-MARGIN].min() == 1
    assert weights[0].max() == weights[-1].max() == weights[:, 0].max() == weights[:, -1].max() == 0
    assert np.abs(np.diff(weights, axis=0)).max() < 0.08  # no step that an eye would see


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("degrees", [0, 30])
def test_paste_brings_a_constant_change_back_to_the_face(scale: float, degrees: float) -> None:
    """At the landmarks the change is whole; outside of the frame and its margin there is none."""
    turn = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (TEMPLATES[FRAME] - 56) @ rotation.T + [200, 180]
    matrix = similarity(points, TEMPLATES[FRAME]) + SHIFT
    side = 112 + 2 * MARGIN
    face = Difference(np.full((side, side, 3), 0.2, np.float32), matrix)
    photograph = np.full((360, 400, 3), 0.5, np.float32)
    pasted = paste(photograph, [face], fade())
    for x, y in points:
        np.testing.assert_allclose(pasted[round(y), round(x)], 0.7, atol=1e-3)
    far = np.hypot(*np.meshgrid(np.arange(400) - 200, np.arange(360) - 180)) > scale * (56 + MARGIN) * 1.42
    np.testing.assert_array_equal(pasted[far], 0.5)
    # Two equal faces in one place are one face.
    np.testing.assert_allclose(paste(photograph, [face, face], fade())[180, 200], 0.7, atol=1e-3)
    # A face beyond the border is no error.
    away = Difference(face.pixels, matrix + np.array([[0, 0, 1e4], [0, 0, 0]]))
    np.testing.assert_array_equal(paste(photograph, [away], fade()), photograph)


def test_paste_undoes_a_blur_of_a_smooth_face() -> None:
    """Aligned, changed and pasted: the aligned crop of the result is the changed crop."""
    photograph = data.astronaut().astype(np.float32) / 255
    points = np.array([[190, 105], [250, 105], [220, 135], [195, 165], [245, 165]])  # near enough
    aligned = align(data.astronaut(), points, FRAME, MARGIN)
    crop = aligned.pixels.astype(np.float32) / 255
    rows = np.linspace(0, np.pi, crop.shape[0])[:, None, None]
    change = (0.1 * np.sin(rows) * np.ones_like(crop)).astype(np.float32)
    pasted = paste(photograph, [Difference(change, aligned.matrix + SHIFT)], fade())
    again = align((pasted * 255).round().astype(np.uint8), points, FRAME, 0).pixels.astype(np.float32) / 255
    expected = (crop + change).clip(0, 1)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.abs(again - expected).mean() < 0.004  # the eight bits of two roundings


def test_photographs_with_faces_without_and_with_alpha() -> None:
    photograph = data.astronaut()[:320, 60:380]
    alpha = np.dstack([photograph, np.full(photograph.shape[:2], 77, np.uint8)])
    pictures = [Image.fromarray(photograph), Image.new("L", (64, 64), 128), Image.fromarray(alpha)]
    face, none, layered = by_faces(DeblurStage(Brighter()), device="cpu")(pictures)
    assert face.decision.action == "restore"
    assert face.note == ""
    change = np.asarray(face.picture).astype(int) - photograph
    middle = change[70:130, 140:190]
    assert 20 < np.median(middle) < 30  # 0.1 of 255
    assert np.abs(change[250:, :40]).max() == 0
    assert none.note == "no face found"
    assert none.decision.action == "pass"
    assert none.picture is pictures[1]
    assert layered.picture.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(layered.picture)[..., 3], 77)
    np.testing.assert_array_equal(np.asarray(layered.picture)[..., :3], np.asarray(face.picture))


def test_sharp_faces_change_nothing() -> None:
    picture = Image.fromarray(data.astronaut()[:320, 60:380])
    (mended,) = by_faces(DeblurStage(Brighter(), gate=Gate(5, 6)), device="cpu")([picture])
    assert mended.decision.action == "pass"
    assert mended.decision.score == pytest.approx(2**0.5)
    assert mended.picture is picture
