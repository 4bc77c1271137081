from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blurface.errors import DataError, InputError, WeightsError
from verification import create_embedder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write(
    path: Path,
    shape: tuple[Any, ...] = ("n", 3, 112, 112),
    outputs: tuple[str, ...] = ("embedding",),
    half: bool = False,
    axes: tuple[int, int] = (2, 3),
) -> Path:
    """A network whose embedding is the mean of each channel of what it sees."""
    helper = onnx.helper
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    nodes = [helper.make_node("ReduceMean", ["face", "axes"], ["embedding"], keepdims=0)]
    if "map" in outputs:
        nodes.append(helper.make_node("Identity", ["face"], ["map"]))
    if "other" in outputs:
        nodes.append(helper.make_node("Neg", ["embedding"], ["other"]))
    shapes = {"embedding": [shape[0], 3], "other": [shape[0], 3], "map": list(shape)}
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("face", kind, list(shape))],
        [helper.make_tensor_value_info(name, kind, shapes[name]) for name in outputs],
        [helper.make_tensor("axes", onnx.TensorProto.INT64, [2], axes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(5, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def means(faces: torch.Tensor) -> np.ndarray:
    return np.asarray(faces.mean(dim=(2, 3)))


def test_the_default_scaling_is_arcfaces(tmp_path: Path, faces: torch.Tensor) -> None:
    path = write(tmp_path / "face.onnx")
    embedder = create_embedder(f"onnx:{path}")
    assert (embedder.name, embedder.frame, embedder.dimension) == ("onnx:face.onnx", "112x112", 3)
    np.testing.assert_allclose(embedder.embed(faces), means(faces) * 2 - 1, atol=1e-5)


def test_scaling_and_channel_order(tmp_path: Path, faces: torch.Tensor) -> None:
    path = write(tmp_path / "face.onnx")
    embedder = create_embedder(f"onnx:{path}", mean=(10, 20, 30), std=(1, 2, 4), bgr=True)
    expected = (means(faces)[:, ::-1] * 255 - [10, 20, 30]) / [1, 2, 4]
    np.testing.assert_allclose(embedder.embed(faces), expected, rtol=1e-4)
    plain = create_embedder(f"onnx:{path}")
    assert embedder.fingerprint()["options"] != plain.fingerprint()["options"]
    assert embedder.fingerprint()["weights"] == plain.fingerprint()["weights"]


@pytest.mark.parametrize(
    ("shape", "frame", "axes"),
    [
        (("n", 3, 112, 96), "112x96", (2, 3)),
        (("n", 112, 112, 3), "112x112", (1, 2)),
        (("n", 3, 160, 160), "112x112", (2, 3)),
        (("n", 3, "h", "w"), "112x112", (2, 3)),
        ((1, 3, 112, 112), "112x112", (2, 3)),
        ((4, 3, 112, 112), "112x112", (2, 3)),
    ],
)
def test_size_layout_and_batch_are_read_from_the_file(
    shape: tuple[Any, ...], frame: str, axes: tuple[int, int], tmp_path: Path, faces: torch.Tensor
) -> None:
    embedder = create_embedder(f"onnx:{write(tmp_path / 'face.onnx', shape, axes=axes)}")
    assert embedder.frame == frame
    given = faces[..., :96] if frame == "112x96" else faces
    rows = embedder.embed(given)
    assert rows.shape == (5, 3)
    # Enlarging keeps the mean of noise to about a hundredth.
    np.testing.assert_allclose(rows, means(given) * 2 - 1, atol=0.01 if 160 in shape else 1e-5)


def test_half_precision_and_a_chosen_output(tmp_path: Path, faces: torch.Tensor) -> None:
    half = create_embedder(f"onnx:{write(tmp_path / 'half.onnx', half=True)}")
    np.testing.assert_allclose(half.embed(faces), means(faces) * 2 - 1, atol=2e-3)
    several = write(tmp_path / "several.onnx", outputs=("map", "embedding", "other"))
    first, other = create_embedder(f"onnx:{several}"), create_embedder(f"onnx:{several}", output="other")
    np.testing.assert_allclose(first.embed(faces), -other.embed(faces))
    with pytest.raises(InputError, match="map, embedding, other"):
        create_embedder(f"onnx:{several}", output="nothing")
    with pytest.raises(WeightsError, match=r"\(N, D\)"):
        create_embedder(f"onnx:{several}", output="map")


def test_files_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.onnx"):
        create_embedder(f"onnx:{tmp_path / 'gone.onnx'}")
    text = tmp_path / "text.onnx"
    text.write_text("no network")
    with pytest.raises(WeightsError, match=r"text\.onnx"):
        create_embedder(f"onnx:{text}")
    with pytest.raises(WeightsError, match="RGB"):
        create_embedder(f"onnx:{write(tmp_path / 'grey.onnx', ('n', 1, 112, 112))}")
    good = write(tmp_path / "good.onnx")
    for options in ({"metric": "manhattan"}, {"std": 0}, {"mean": (1, 2)}, {"frame": "160x160"}):
        with pytest.raises(InputError):
            create_embedder(f"onnx:{good}", **options)
