from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform, warp

from blurface.errors import InputError
from verification.align import TEMPLATES, align, centre_points, crop_prealigned, frame_size, similarity


def transform(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def ramp(height: int, width: int) -> np.ndarray:
    """A plane in each channel, so that every interpolation that is exact for planes is known."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x + 10, y + 10, (x + y) / 2 + 10], axis=-1).round().astype(np.uint8)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(-3.1, 3.1),
    st.floats(0.05, 20),
    st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    st.integers(0, 2**32 - 1),
)
def test_similarity_is_recovered_and_is_scikit_images(
    angle: float, scale: float, shift: tuple[float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 30, (5, 2))
    exact = transform(angle, scale, shift)
    moved = points @ exact[:, :2].T + exact[:, 2]
    np.testing.assert_allclose(similarity(points, moved), exact, atol=1e-8 * scale + 1e-9, rtol=1e-7)

    noisy = moved + rng.normal(0, scale, moved.shape)
    reference = SimilarityTransform.from_estimate(points, noisy).params[:2]
    np.testing.assert_allclose(similarity(points, noisy), reference, atol=1e-6 * scale)


def test_a_mirrored_face_is_not_reflected() -> None:
    template = TEMPLATES["112x96"]
    mirrored = template * [-1, 1]
    matrix = similarity(mirrored, template)
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize(
    "points",
    [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2)), np.zeros((5, 3)), np.full((5, 2), 7e3)],
)
def test_unusable_landmarks_are_refused(points: np.ndarray) -> None:
    with pytest.raises(InputError):
        similarity(points, TEMPLATES["112x96"])


def test_frames_differ_by_eight_columns() -> None:
    np.testing.assert_allclose(TEMPLATES["112x112"] - TEMPLATES["112x96"], np.tile([8.0, 0.0], (5, 1)))
    assert frame_size("112x96") == (112, 96)
    with pytest.raises(InputError, match="112x96, 112x112"):
        frame_size("160x160")


def test_landmarks_at_the_template_leave_the_photograph_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (160, 150, 3), np.uint8)
    face = align(image, TEMPLATES["112x96"] + [20, 30], "112x96", margin=16)
    np.testing.assert_array_equal(face.pixels, image[30 - 16 : 30 + 112 + 16, 20 - 16 : 20 + 96 + 16])
    assert face.invented == 0
    assert not face.fallback
    np.testing.assert_allclose(face.matrix, [[1, 0, -20], [0, 1, -30]], atol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 0.45, 0.6, 0.8, 1.0, 1.7])
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_landmarks_land_on_the_template_to_a_fraction_of_a_pixel(scale: float, angle: float) -> None:
    # On planes interpolation and averaging are exact, so each pixel's value tells where it came from.
    matrix = transform(angle, scale, (3.3, -8.7))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    middle = inverse[:, :2] @ [48, 56] + inverse[:, 2]
    # A photograph moved so that the crop falls inside of it.
    points = TEMPLATES["112x96"] @ inverse[:, :2].T + inverse[:, 2] - middle + 120
    face = align(ramp(240, 240), points, "112x96")
    x, y = np.meshgrid(np.arange(96), np.arange(112))
    at = np.stack([x, y], axis=-1) @ inverse[:, :2].T + inverse[:, 2] - middle + 120
    inside = ((at > 3) & (at < 236)).all(axis=-1)
    assert inside.mean() > 0.4
    error = face.pixels[inside][:, :2].astype(float) - 10 - at[inside]
    assert np.abs(error).max() < 1.01
    assert np.abs(error.mean(axis=0)).max() < 0.06


def test_a_reduction_does_not_alias() -> None:
    # Stripes of two pixels vanish in a crop four times smaller, and must become grey, not moire.
    image = np.zeros((800, 800, 3), np.uint8)
    image[:, ::2] = 255
    points = (TEMPLATES["112x96"] - [48, 56]) * 4.3 + 400
    face = align(image, points, "112x96")
    assert face.pixels.std() < 8
    assert abs(face.pixels.mean() - 127.5) < 2


def test_enlarging_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(1)
    smooth = rng.random((12, 12, 3))
    image = (
        warp(smooth, SimilarityTransform(scale=0.08), output_shape=(150, 150), order=3, mode="edge") * 255
    ).astype(np.uint8)
    points = (TEMPLATES["112x112"] - 56) * 0.7 + 75
    face = align(image, points, "112x112")
    inverse = SimilarityTransform(np.linalg.inv(np.vstack([face.matrix, [0, 0, 1]])))
    reference = warp(image / 255, inverse, output_shape=(112, 112), order=3, mode="edge") * 255
    # scikit-image interpolates with a cubic spline, PIL with Keys' kernel.
    assert np.abs(face.pixels - reference).max() < 5
    assert np.abs(face.pixels - reference).mean() < 0.8
    assert abs((face.pixels - reference).mean()) < 0.05


def test_beyond_the_photograph_the_edge_is_repeated_and_counted() -> None:
    image = ramp(112, 96)
    face = align(image, TEMPLATES["112x96"], "112x96", margin=16)
    assert face.invented == pytest.approx(1 - 112 * 96 / (144 * 128))
    np.testing.assert_array_equal(face.pixels, np.pad(image, ((16, 16), (16, 16), (0, 0)), mode="edge"))


@pytest.mark.parametrize(("height", "width"), [(250, 250), (480, 640), (60, 50), (1, 1)])
def test_without_landmarks_the_middle_is_taken(height: int, width: int) -> None:
    face = align(np.full((height, width, 3), 9, np.uint8), None, "112x112")
    assert face.fallback
    assert (face.pixels == 9).all()
    middle = centre_points(height, width).mean(axis=0)
    assert abs(middle[0] - (width - 1) / 2) < 0.01 * min(height, width)


def test_absurd_landmarks_are_refused_rather_than_filling_memory() -> None:
    with pytest.raises(InputError, match="times"):
        align(np.zeros((10, 10, 3), np.uint8), TEMPLATES["112x96"] * 1e4, "112x96")


@pytest.mark.parametrize(
    "image", [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3)), np.zeros((0, 9, 3), np.uint8)]
)
def test_a_photograph_must_be_rgb_bytes(image: np.ndarray) -> None:
    with pytest.raises(InputError):
        align(image, None)


def test_prealigned_crops() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    np.testing.assert_array_equal(crop_prealigned(image, "112x96"), image[:, 8:104])
    np.testing.assert_array_equal(crop_prealigned(image, "112x112"), image)
    wide = crop_prealigned(image, "112x96", margin=16)
    assert wide.shape == (144, 128, 3)
    np.testing.assert_array_equal(wide[16:128, 8:120], image)
    np.testing.assert_array_equal(wide[:16, 8:120], np.broadcast_to(image[:1], (16, 112, 3)))
    for bad in (image[:100], image.astype(float)):
        with pytest.raises(InputError):
            crop_prealigned(bad, "112x96")
