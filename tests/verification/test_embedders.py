from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from blurface import assets
from blurface.errors import DataError, InputError, MissingDependencyError, UnknownNameError, WeightsError
from verification import create_embedder, embedders, list_embedders
from verification.embedders import edgeface as edgeface_module
from verification.embedders.base import Embedder, TorchEmbedder, find_weights, fold_batch_norm
from verification.embedders.edgeface import EdgeFace, dequantise, load_edgeface
from verification.embedders.facenet import FaceNet, load_facenet
from verification.embedders.mobilefacenet import MobileFaceNet, MobileFaceNetEmbedder, load_mobilefacenet

ROOT = Path(__file__).resolve().parents[2]


class Means(Embedder):
    """Mean of each channel; unusable where the first pixel is 1 or the face is black."""

    name = "means"
    frame = "112x96"
    dimension = 3
    batch_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def _embed(self, batch: Tensor) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        rows = batch.mean(dim=(2, 3)).numpy()
        rows[batch[:, 0, 0, 0].numpy() == 1] = np.inf
        return np.asarray(rows, np.float32)

    def weights_digest(self) -> str:
        return "none"


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def random_statistics(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean = torch.randn(child.num_features, generator=generator) * 0.1
            child.running_var = torch.rand(child.num_features, generator=generator) + 0.5
    return module.eval()


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobile.ckpt"
    torch.save({"epoch": 1, "net_state_dict": random_statistics(MobileFaceNet()).state_dict()}, path)
    return path


def test_batches_are_cut_and_unusable_faces_are_nan() -> None:
    embedder = Means()
    faces = torch.rand(10, 3, 112, 96) * 0.9
    faces[2, 0, 0, 0] = 1
    faces[5, 1, 7, 7] = torch.nan
    faces[7] = 0
    rows = embedder.embed(faces)
    assert embedder.sizes == [4, 4, 2]
    assert rows.dtype == np.float32
    assert np.isnan(rows).all(axis=1).tolist() == [i in (2, 5, 7) for i in range(10)]
    np.testing.assert_allclose(rows[0], faces[0].mean(dim=(1, 2)), rtol=1e-5)
    assert embedder.embed(faces[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "faces",
    [torch.zeros(1, 3, 112, 112), torch.zeros(3, 112, 96), torch.zeros(2, 3, 112, 96, dtype=torch.uint8)],
)
def test_faces_must_be_in_the_frame(faces: Tensor) -> None:
    with pytest.raises(InputError):
        Means().embed(faces)


def test_the_fingerprint_names_what_determines_the_result() -> None:
    mark = Means().fingerprint()
    assert mark["name"] == "means"
    assert mark["weights"] == "none"
    assert len(mark["code"]) == 16
    with pytest.raises(InputError, match="differentiable"):
        Means().forward_tensor(torch.zeros(1, 3, 112, 96))


def test_names_are_listed_and_a_wrong_one_is_answered() -> None:
    assert {"mobilefacenet", "edgeface-xs", "edgeface-xxs", "facenet", "dlib", "onnx"} <= set(
        list_embedders()
    )
    with pytest.raises(UnknownNameError, match="mobilefacenet"):
        create_embedder("mobilefacent")
    assert all(entry.summary and entry.source for entry in embedders.entries())


def test_the_package_imports_without_torch() -> None:
    code = "import sys, verification; verification.list_embedders(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_mobilefacenet_has_the_papers_size() -> None:
    network = MobileFaceNet().eval()
    # Table 1 for 112x96 faces: "0.99 million parameters".
    assert sum(p.numel() for p in network.parameters()) == 999_552
    assert len(network.blocks) == 15
    with torch.no_grad():
        assert network(torch.rand(2, 3, 112, 96)).shape == (2, 128)
        sizes = []
        for block in network.blocks:
            block.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
        network(torch.rand(1, 3, 112, 96))
    assert sizes[0] == (64, 28, 24)
    assert sizes[5] == (128, 14, 12)
    assert sizes[-1] == (128, 7, 6)


def test_mobilefacenet_embeds_through_the_folded_network(mobile: Path) -> None:
    embedder = MobileFaceNetEmbedder(mobile)
    faces = torch.rand(3, 3, 112, 96)
    with torch.no_grad():
        expected = load_mobilefacenet(mobile)(faces).numpy()
    np.testing.assert_allclose(embedder.embed(faces), expected, atol=1e-4 * np.abs(expected).max())
    assert embedder.parameters() == 999_552
    assert embedder.fingerprint()["weights"] == assets.sha256_file(mobile)
    assert not any(p.requires_grad for p in embedder.module.parameters())

    faces.requires_grad_()
    embedder.forward_tensor(faces).square().sum().backward()
    assert faces.grad is not None
    assert faces.grad.abs().max() > 0


def test_folding_leaves_what_is_not_a_convolution_before_a_norm() -> None:
    network = random_statistics(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    )
    x = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        expected = network(x)
        folded = fold_batch_norm(network)
        torch.testing.assert_close(folded(x), expected)
    assert isinstance(network[2], nn.BatchNorm2d)
    assert isinstance(network[4], nn.Identity)


def test_weights_that_are_missing_or_wrong_say_so(
    tmp_path: Path, mobile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLURFACE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="mobilefacenet-casia"):
        create_embedder("mobilefacenet")
    with pytest.raises(DataError, match=r"gone\.ckpt"):
        create_embedder("mobilefacenet", weights=tmp_path / "gone.ckpt")

    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(mobile.read_bytes()[:100_000])
    bare = tmp_path / "bare.ckpt"
    torch.save(MobileFaceNet().state_dict(), bare)
    other = tmp_path / "other.ckpt"
    state = MobileFaceNet().state_dict()
    state["linear7.conv.weight"] = torch.zeros(512, 1, 7, 7)
    torch.save({"net_state_dict": state}, other)
    for path in (text, cut, bare, other):
        with pytest.raises(WeightsError, match=path.name):
            load_mobilefacenet(path)


@pytest.mark.parametrize(
    "load", [load_mobilefacenet, load_facenet, lambda path: load_edgeface("edgenext_xx_small", path)]
)
def test_no_checkpoint_executes_code(load: Any, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    by_torch, by_pickle = tmp_path / "torch.pt", tmp_path / "pickle.pt"
    torch.save({"net_state_dict": Evil(marker)}, by_torch)
    by_pickle.write_bytes(pickle.dumps(Evil(marker)))
    for path in (by_torch, by_pickle):
        with pytest.raises(WeightsError):
            load(path)
    assert not marker.exists()


def quantised_checkpoint(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """Save a network as the published checkpoints are; return the plain state it stands for."""
    state: OrderedDict[str, Any] = OrderedDict()
    plain: dict[str, Tensor] = {}
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for key, value in network.state_dict().items():
        layer, _, last = key.rpartition(".")
        if layer not in linear:
            state[key] = plain[key] = value
        elif last == "weight":
            weight = torch.quantize_per_tensor(value, float(value.abs().max() / 127), 0, torch.qint8)
            bias = network.get_submodule(layer).bias
            state[f"{layer}.scale"], state[f"{layer}.zero_point"] = torch.tensor(1.0), torch.tensor(0)
            state[f"{layer}._packed_params.dtype"] = torch.qint8
            state[f"{layer}._packed_params._packed_params"] = (weight, bias)
            plain[key] = weight.int_repr().float() * weight.q_scale()
            if bias is not None:
                plain[f"{layer}.bias"] = bias.detach()
    torch.save(state, path)
    return plain


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_edgeface_is_dequantised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    network = EdgeFace("edgenext_xx_small").eval()
    path = tmp_path / "edgeface_xxs_q.pt"
    plain = quantised_checkpoint(network, path)
    network.load_state_dict(plain)
    faces = torch.rand(2, 3, 112, 112)
    embedder = create_embedder("edgeface-xxs", weights=path)
    with torch.no_grad():
        expected = network(faces).numpy()
        # The network sees values in [-1, 1].
        torch.testing.assert_close(network(faces), network.model(faces * 2 - 1))
    np.testing.assert_allclose(embedder.embed(faces), expected, atol=1e-5)
    assert embedder.fingerprint()["weights"] == assets.sha256_file(path)

    kept = list((tmp_path / "cache" / "weights").iterdir())
    assert [item.suffix for item in kept] == [".safetensors"]

    def never(_: object) -> object:
        raise AssertionError("dequantised again")

    monkeypatch.setattr(edgeface_module, "dequantise", never)
    again = load_edgeface("edgenext_xx_small", path)
    direct = tmp_path / "plain.safetensors"
    save_file(plain, direct)
    for other in (again, load_edgeface("edgenext_xx_small", direct)):
        torch.testing.assert_close(other.state_dict()["model.head.fc.weight"], plain["model.head.fc.weight"])
    with pytest.raises(WeightsError, match="edgenext_x_small"):
        load_edgeface("edgenext_x_small", direct)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dequantised_weights_are_scale_times_integer() -> None:
    weight = torch.quantize_per_tensor(torch.tensor([[0.5, -0.26], [0.0, 0.1]]), 0.02, 0, torch.qint8)
    state = {
        "a.scale": torch.tensor(1.0),
        "a.zero_point": torch.tensor(0),
        "a._packed_params.dtype": torch.qint8,
        "a._packed_params._packed_params": (weight, torch.ones(2)),
        "b.gamma": torch.zeros(3),
    }
    plain = dequantise(state)
    assert set(plain) == {"a.weight", "a.bias", "b.gamma"}
    torch.testing.assert_close(plain["a.weight"], torch.tensor([[0.5, -0.26], [0.0, 0.1]]))


def test_facenet_loads_a_released_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = FaceNet().eval()
    path = tmp_path / "facenet.pt"
    released = {
        **network.network.state_dict(),
        "logits.weight": torch.zeros(10, 512),
        "logits.bias": torch.zeros(10),
    }
    torch.save(OrderedDict(released), path)
    embedder = create_embedder("facenet:casia-webface", weights=path)
    assert embedder.name == "facenet:casia-webface"
    flat = torch.full((1, 3, 112, 112), 0.25)
    with torch.no_grad():
        # Enlarging a flat face leaves it flat.
        expected = network.network(torch.full((1, 3, 160, 160), (0.25 * 255 - 127.5) / 128)).numpy()
    rows = embedder.embed(flat)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert np.linalg.norm(rows) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="vggface2"):
        create_embedder("facenet:ms1m")


def test_a_download_is_tried_only_where_nothing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLURFACE_DATA", "")
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    fetched: list[str] = []

    def fetch(name: str, progress: bool = True) -> Path:
        fetched.append(name)
        raise DataError("No network.", "Place it yourself.")

    monkeypatch.setattr(assets, "fetch", fetch)
    with pytest.raises(DataError, match="Place it yourself"):
        create_embedder("facenet")
    with pytest.raises(DataError, match="blurface data get facenet-vggface2"):
        create_embedder("facenet", download=False)
    with pytest.raises(DataError, match="weights/mobilefacenet-casia-112x96"):
        create_embedder("mobilefacenet")  # has no public address
    assert fetched == ["facenet-vggface2"]

    place = tmp_path / "root" / "weights" / "20180402-114759-vggface2.pt"
    place.parent.mkdir(parents=True)
    place.touch()
    assert find_weights("facenet-vggface2", None, tmp_path / "root", download=True) == place
    assert fetched == ["facenet-vggface2"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (("dlib", "dlib"), ("onnxruntime", "onnx:face.onnx")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            patch.setattr(Path, "is_file", lambda _: True)
            with pytest.raises(MissingDependencyError, match=r"blurface\[(dlib|onnx)\]"):
                create_embedder(name)


def test_torch_embedders_agree_whatever_the_batch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    embedder = TorchEmbedder(network, Path("none"))
    embedder.dimension = 8
    faces = torch.rand(11, 3, 112, 112)
    whole = embedder.embed(faces)
    embedder.batch_size = 3
    np.testing.assert_allclose(embedder.embed(faces), whole, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(faces[4:5].double()), whole[4:5], atol=1e-6)
