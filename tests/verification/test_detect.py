from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import data

import verification.detect as detect_module
from blurface.errors import DataError, ImageError, InputError, MissingDependencyError
from verification import vision
from verification.detect import (
    Detector,
    DetectorSettings,
    Faces,
    LandmarkCache,
    central_largest,
    locate,
    select,
)


@pytest.fixture(scope="module")
def astronaut() -> NDArray[np.uint8]:
    """A portrait of 256x256 that scikit-image ships (public domain, NASA)."""
    return np.ascontiguousarray(data.astronaut()[:256, 96:352])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def some_faces(count: int, seed: int = 0) -> Faces:
    rng = np.random.default_rng(seed)
    return Faces(
        rng.random((count, 4), np.float32) * 250,
        rng.random(count, np.float32),
        rng.random((count, 5, 2), np.float32) * 250,
        250,
        200,
    )


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[75, 75, 175, 175]], 0),
        # The larger of two at the same distance.
        ([[100, 100, 150, 150], [75, 75, 175, 175]], 1),
        # Equal sizes: the more central one.
        ([[0, 0, 80, 80], [90, 80, 170, 160]], 1),
        # A large face at the rim loses against a smaller one in the middle ...
        ([[160, 160, 250, 250], [90, 90, 160, 160]], 1),
        # ... and wins where it is large enough: 150^2 - 2 * 2 * 50^2 > 50^2.
        ([[100, 100, 250, 250], [100, 100, 150, 150]], 0),
    ],
)
def test_the_central_largest_face_is_meant(boxes: list[list[float]], expected: int) -> None:
    assert central_largest(np.array(boxes), 250, 250) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 20), st.integers(1, 6))
def test_the_choice_does_not_depend_on_the_size_of_the_photograph(
    seed: int, scale: float, count: int
) -> None:
    corner = np.random.default_rng(seed).random((count, 2)) * 200
    side = np.random.default_rng(seed + 1).random((count, 2)) * 100 + 1
    boxes = np.concatenate([corner, corner + side], axis=1)
    chosen = central_largest(boxes, 250, 250)
    area = side.prod(axis=1)
    worth = area - 2 * ((corner + side / 2 - 125) ** 2).sum(axis=1)
    assert chosen == int(worth.argmax())
    scaled = boxes * scale
    best = np.sort(worth)[::-1]
    if count == 1 or best[0] - best[1] > 1e-3:
        assert central_largest(scaled, 250 * scale, 250 * scale) == chosen  # type: ignore[arg-type]


def test_select_tells_how_many_there_were() -> None:
    found = select(some_faces(3))
    assert found is not None
    assert found.faces == 3
    assert select(some_faces(0)) is None


def test_a_portrait_is_found_where_dlib_finds_it(detector: Detector, astronaut: NDArray[np.uint8]) -> None:
    found = detector.detect([astronaut])[0]
    assert found is not None
    assert found.probability > 0.99
    left, right, nose, *mouth = found.points
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth[0][1], mouth[1][1])

    dlib = pytest.importorskip("dlib")
    from verification.embedders.dlib import model_file

    boxes = dlib.get_frontal_face_detector()(astronaut, 1)
    shape = dlib.shape_predictor(str(model_file().with_name("shape_predictor_68_face_landmarks.dat")))
    marks = np.array([(p.x, p.y) for p in shape(astronaut, boxes[0]).parts()])
    theirs = np.stack([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
    assert np.abs(found.points - theirs).max() < 0.1 * np.linalg.norm(right - left)


def test_landmarks_move_with_the_face(detector: Detector, astronaut: NDArray[np.uint8]) -> None:
    moved = np.pad(astronaut, ((13, 0), (7, 0), (0, 0)), mode="edge")
    first, second = detector.detect([astronaut, moved])
    assert first is not None
    assert second is not None
    assert np.abs(second.points - first.points - [7, 13]).max() < 2.5


def test_order_sizes_and_photographs_without_a_face(detector: Detector, astronaut: NDArray[np.uint8]) -> None:
    flat = np.full_like(astronaut, 128)
    tiny = np.zeros((8, 300, 3), np.uint8)
    small = np.asarray(Image.fromarray(astronaut).resize((128, 128)))
    found = detector.detect([flat, astronaut, tiny, small, astronaut])
    assert [item is not None for item in found] == [False, True, False, True, True]
    np.testing.assert_array_equal(found[1].points, found[4].points)  # type: ignore[union-attr]
    assert np.abs(found[3].points * 2 - found[1].points).max() < 6  # type: ignore[union-attr]
    assert detector.detect([]) == []


def test_batches_agree(detector: Detector, astronaut: NDArray[np.uint8]) -> None:
    images = [astronaut, np.ascontiguousarray(astronaut[:, ::-1])]
    together = Detector(batch_size=2).detect(images)
    for one, two in zip(detector.detect(images), together):
        np.testing.assert_allclose(one.points, two.points, atol=0.02)  # type: ignore[union-attr]


def test_a_photograph_must_be_rgb_bytes(detector: Detector) -> None:
    with pytest.raises(InputError, match="uint8"):
        detector.detect([np.zeros((100, 100, 3))])  # type: ignore[list-item]


def test_a_candidate_outside_of_the_photograph_is_no_crash(
    detector: Detector, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = detector._mtcnn.detect

    def breaks(images: NDArray[np.uint8], landmarks: bool) -> object:
        if images.shape[0] > 1 or images[0].std() < 1:
            raise IndexError(
                "The shape of the mask [3] at index 0 does not match the shape of the indexed tensor"
            )
        return real(images, landmarks=landmarks)

    monkeypatch.setattr(detector._mtcnn, "detect", breaks)
    monkeypatch.setattr(detector, "batch_size", 2)
    found = detector.detect([astronaut, np.full_like(astronaut, 128)])
    assert [item is not None for item in found] == [True, False]


def test_the_cache_gives_back_what_it_got(tmp_path: Path) -> None:
    cache = LandmarkCache(tmp_path)
    faces = {"a": some_faces(3), "b": some_faces(0), "c": some_faces(1, 2)}
    cache.write(faces, "one")
    cache.write({"a": some_faces(2, 5)}, "two")
    found = LandmarkCache(tmp_path).read(["a", "b", "c", "d"], "one")
    assert set(found) == {"a", "b", "c"}
    for key, item in found.items():
        np.testing.assert_array_equal(item.boxes, faces[key].boxes)
        np.testing.assert_array_equal(item.probabilities, faces[key].probabilities)
        np.testing.assert_array_equal(item.points, faces[key].points)
        assert (item.height, item.width) == (250, 200)
    assert len(cache.read(["a"], "two")["a"]) == 2
    many = {f"{number}": some_faces(1) for number in range(1200)}
    cache.write(many, "one")
    assert len(cache.read(many, "one")) == 1200


def write_many(folder: Path, name: str, count: int, started: Connection) -> None:
    cache = LandmarkCache(folder)
    for number in range(count):
        cache.write({f"{name}{number}.{row}": some_faces(1) for row in range(5)}, "key")
        if number == 3:
            started.send(True)


def test_two_processes_may_write_at_once_and_one_may_be_killed(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")  # nothing here uses torch, so forking is safe and fast
    listen, tell = fork.Pipe(duplex=False)
    processes = [
        fork.Process(target=write_many, args=(tmp_path, name, count, tell))
        for name, count in (("a", 30), ("b", 30), ("c", 100_000))
    ]
    for process in processes:
        process.start()
    for _ in processes:
        assert listen.poll(60)
        listen.recv()
    for process in processes[:2]:
        process.join(60)
        assert process.exitcode == 0
    os.kill(processes[2].pid or 0, signal.SIGKILL)
    processes[2].join(60)

    cache = LandmarkCache(tmp_path)
    wanted = [f"{name}{number}.{row}" for name in "ab" for number in range(30) for row in range(5)]
    assert len(cache.read(wanted, "key")) == 300
    # Of the killed process, whole batches only.
    killed = cache.read([f"c{number}.{row}" for number in range(5000) for row in range(5)], "key")
    assert len(killed) >= 20
    assert len(killed) % 5 == 0


def test_a_damaged_cache_says_so(tmp_path: Path) -> None:
    (tmp_path / "landmarks.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="delete it"):
        LandmarkCache(tmp_path)


def test_files_are_detected_once(
    tmp_path: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [tmp_path / name for name in ("a.png", "same.png", "none.png")]
    for path, image in zip(photos, (astronaut, astronaut, np.full_like(astronaut, 90))):
        Image.fromarray(image).save(path)
    cache = LandmarkCache(tmp_path / "cache")
    seen: list[tuple[int, int]] = []
    first = locate(photos, cache=cache, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (2, 2)]
    assert [item is not None for item in first] == [True, True, False]

    def never(*_: object, **__: object) -> Detector:
        raise AssertionError("the detector was built although all is known")

    with monkeypatch.context() as patch:
        patch.setattr(detect_module, "Detector", never)
        again = locate([*photos[::-1]], cache=cache)
        np.testing.assert_array_equal(again[2].points, first[0].points)  # type: ignore[union-attr]
        with pytest.raises(AssertionError):
            locate(photos, DetectorSettings(min_face=30), cache=cache)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_is_no_picture_does_not_cost_the_others(
    tmp_path: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    photo, text, copy, gone = (tmp_path / name for name in ("a.png", "text.png", "copy.png", "gone.png"))
    Image.fromarray(astronaut).save(photo)
    text.write_text("no picture")
    copy.write_text("no picture")
    monkeypatch.setattr(detect_module, "_CHUNK", 1)
    cache = LandmarkCache(tmp_path / "cache")
    told: dict[int, str] = {}
    found = locate(
        [text, photo, copy, gone],
        cache=cache,
        jobs=jobs,
        unreadable=lambda index, error: told.update({index: error.message}),
    )
    assert [item is not None for item in found] == [False, True, False, False]
    assert sorted(told) == [0, 2, 3]
    assert "text.png" in told[0]
    assert "copy.png" in told[2]
    assert "gone.png" in told[3]
    with pytest.raises(ImageError, match=r"text\.png"):
        locate([photo, text], cache=cache)
    with pytest.raises(DataError, match=r"gone\.png"):
        locate([photo, gone], cache=cache)


def test_processes_agree(
    tmp_path: Path, astronaut: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [tmp_path / "a.png", tmp_path / "b.png"]
    Image.fromarray(astronaut).save(photos[0])
    Image.fromarray(astronaut[:, ::-1]).save(photos[1])
    monkeypatch.setattr(detect_module, "_CHUNK", 1)
    one = locate(photos, cache=LandmarkCache(tmp_path / "one"))
    two = locate(photos, cache=LandmarkCache(tmp_path / "two"), jobs=2)
    for a, b in zip(one, two):
        np.testing.assert_array_equal(a.points, b.points)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
    ],
)
def test_a_torchvision_that_does_not_fit_is_named_with_the_mend(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise error

    vision.require_torchvision.cache_clear()
    monkeypatch.setattr(vision, "_load", fails)
    monkeypatch.setattr(torch, "__version__", "2.14.1+cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    try:
        with pytest.raises(MissingDependencyError) as caught:
            Detector()
    finally:
        vision.require_torchvision.cache_clear()
    assert str(error) in caught.value.message
    assert "CPU build" in caught.value.message
    assert "torchvision==0.29.*" in str(caught.value.hint)
    assert "https://download.pytorch.org/whl/cpu" in str(caught.value.hint)
