"""Other runtimes give what PyTorch gives, at any batch and size."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from blurface.backends import best_backend, load_backend
from blurface.backends.base import Array, Backend
from blurface.cli import main
from blurface.errors import BlurfaceError, InputError, MissingDependencyError, UnknownNameError, WeightsError
from blurface.export import check_parity, export_onnx, export_openvino
from blurface.exported import BackendRestorer, create_backend_restorer
from blurface.gate import Gate
from blurface.kernels.convolve import blur
from blurface.kernels.gaussian_process import sample_kernels
from blurface.networks import build_network
from blurface.quantise import mean_psnr, quantise_onnx
from blurface.restorers import create_restorer
from blurface.restorers.base import Restorer
from blurface.stage import DeblurStage, _backend_for
from blurface.weights import FOLDER, list_models, model_digest, save_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
has_openvino = importlib.util.find_spec("openvino") is not None


class Untrained(Restorer):
    """``fast``'s network with small random weights: exercises every operation, needs no training."""

    name = "untrained"
    estimates_kernel = True

    def __init__(self, device: str | torch.device = "cpu", reblurred: int = 0) -> None:
        super().__init__(device)
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = {"width": 16, "deep": 16, "kernel_width": 8, "kernel_deep": 8, "loops": 1}
            self.module: nn.Module = build_network("fast", **sizes, centring=0.6, reblurred=reblurred).eval()
        for parameter in self.module.parameters():
            if parameter.numel() > 4:  # the four regularisers are not drawn
                fan = max(parameter[0].numel(), 16)
                parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 / fan**0.5)

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            restored, kernel = self.module(batch, return_kernel=True)
        return restored, kernel


class Plain(Restorer):
    """A network without a kernel estimate."""

    name = "plain-test"

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = build_network("plain", width=8, deep=8, blocks=(1, 1, 1)).eval()
            nn.init.normal_(self.module.head.weight, std=0.1)  # type: ignore[arg-type,union-attr]

    def _restore(self, batch: Tensor, kernels: Any, return_kernel: bool) -> tuple[Tensor, None]:
        with torch.no_grad():
            return self.module(batch), None


def in_torch(restorer: Restorer, batch: Array) -> tuple[Array, Array]:
    restored, kernels = restorer.restore(torch.from_numpy(batch), return_kernel=True)
    assert isinstance(restored, Tensor)
    return restored.numpy(), kernels.numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("export") / "net.onnx"
    parity = export_onnx(Untrained(), path)
    assert parity.restored < 1e-4
    assert parity.kernel < 1e-4
    assert parity.sizes == 6
    return path


@pytest.mark.parametrize("name", list_models())
def test_every_packaged_model_can_be_exported(name: str, tmp_path: Path) -> None:
    """With trained weights differences grow that random ones hide."""
    assert export_onnx(create_restorer(name, precision="float32"), tmp_path / "net.onnx").restored < 1e-3


def test_the_network_under_test_does_something() -> None:
    x = torch.rand(1, 3, 40, 40)
    assert float((Untrained().restore(x) - x).abs().max()) > 1e-2  # type: ignore[operator]


@pytest.fixture(scope="module")
def backends(exported: Path) -> list[Backend]:
    names = ["onnxruntime", "openvino"] if has_openvino else ["onnxruntime"]
    return [load_backend(name, exported) for name in names]


@pytest.mark.parametrize("shape", [(1, 112, 96), (3, 64, 80), (2, 33, 57), (1, 8, 8), (1, 1, 1)])
def test_any_batch_and_size(backends: list[Backend], shape: tuple[int, int, int]) -> None:
    batch = np.random.default_rng(1).random((shape[0], 3, *shape[1:]), dtype=np.float32)
    expected, kernels = in_torch(Untrained(), batch)
    for backend in backends:
        restored, estimate = backend.run(batch)
        np.testing.assert_allclose(restored, expected, atol=1e-3)
        assert estimate is not None
        assert estimate.shape == (shape[0], 43, 43)
        if min(shape[1:]) > 1:  # one pixel has no gradients: its kernel is rounding alone
            np.testing.assert_allclose(estimate, kernels, atol=1e-3)


@pytest.mark.parametrize("backend", ["onnxruntime", *(["openvino"] if has_openvino else [])])
def test_borders_continued_by_the_estimate_export(backend: str, tmp_path: Path) -> None:
    network = Untrained(reblurred=1)
    parity = export_onnx(network, tmp_path / "net.onnx")
    assert parity.restored < 1e-4
    runtime = load_backend(backend, tmp_path / "net.onnx")
    # not of one pixel: it would be continued by its kernel, which is rounding alone
    for shape in ((1, 3, 112, 96), (2, 3, 33, 57), (1, 3, 8, 8)):
        batch = np.random.default_rng(1).random(shape, dtype=np.float32)
        expected, kernels = in_torch(network, batch)
        restored, estimate = runtime.run(batch)
        np.testing.assert_allclose(restored, expected, atol=1e-3)
        np.testing.assert_allclose(estimate, kernels, atol=1e-3)


@pytest.mark.parametrize("count", [1, 7, 8, 19])
def test_a_large_batch_in_parts_keeps_its_order(exported: Path, count: int) -> None:
    """Three threads take six faces and more in parts; each face is what it is alone."""
    batch = np.random.default_rng(2).random((count, 3, 24, 32), dtype=np.float32)
    restored, kernels = load_backend("onnxruntime", exported, threads=3).run(batch)
    alone = load_backend("onnxruntime", exported, threads=1)
    expected = [alone.run(face[None]) for face in batch]
    np.testing.assert_allclose(restored, np.concatenate([face for face, _ in expected]), atol=1e-5)
    np.testing.assert_allclose(kernels, np.concatenate([kernel for _, kernel in expected]), atol=1e-5)


@pytest.mark.skipif(not has_openvino, reason="OpenVINO is not installed")
def test_a_shape_compiled_for_itself_gives_the_same(exported: Path) -> None:
    backend = load_backend("openvino", exported, threads=1, static=[(1, 24, 32)])
    dynamic = load_backend("openvino", exported, threads=1)
    for shape in ((1, 3, 24, 32), (2, 3, 24, 32)):
        batch = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.testing.assert_allclose(backend.run(batch)[0], dynamic.run(batch)[0], atol=1e-5)


def test_an_exported_file_is_a_restorer_for_the_tables(exported: Path) -> None:
    made = create_restorer(f"exported:{exported}", threads=1)
    assert made.name == "net"
    x = torch.rand(2, 3, 30, 20)
    torch.testing.assert_close(made.restore(x), Untrained().restore(x), atol=1e-3, rtol=0)


def test_file_says_what_it_is(exported: Path) -> None:
    card = {entry.key: entry.value for entry in onnx.load(str(exported)).metadata_props}
    assert card["blurface_model"] == "untrained"
    assert json.loads(card["blurface_fingerprint"])["name"] == "untrained"


def test_stage_on_another_backend(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = create_backend_restorer("untrained", "onnxruntime", model=exported, threads=1)
    assert restorer.options() == {"backend": "onnxruntime", "precision": "fp32"}
    x = torch.rand(3, 3, 40, 32)
    gate = Gate(0, 30)
    ours, info = DeblurStage(restorer, gate=gate)(x, return_info=True)
    theirs, expected = DeblurStage(Untrained(), gate=gate)(x, return_info=True)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert [d.score for d in info] == pytest.approx([d.score for d in expected], abs=1e-2)
    stage = DeblurStage.from_pretrained("untrained", backend="onnxruntime", model=exported, gate=False)
    assert stage(x.numpy().transpose(0, 2, 3, 1)).shape == (3, 40, 32, 3)
    with pytest.raises(InputError, match="no PyTorch network"):
        DeblurStage(restorer, differentiable=True)


def test_network_is_exported_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path))
    monkeypatch.setattr("blurface.export.create_restorer", lambda name, **options: Plain())
    made = create_backend_restorer("plain-test", "onnxruntime")
    assert isinstance(made, BackendRestorer)
    (kept,) = (tmp_path / "exports").iterdir()
    before = kept.stat().st_mtime_ns
    create_backend_restorer("plain-test", "onnxruntime")
    assert kept.stat().st_mtime_ns == before
    x = torch.rand(1, 3, 20, 30)
    torch.testing.assert_close(made.restore(x), Plain().restore(x), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="kernel estimate"):
        made.restore(x, return_kernel=True)


@pytest.mark.skipif(not has_openvino, reason="OpenVINO is not installed")
def test_openvino_file(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    assert export_openvino(Plain(), path).restored < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    full = path.with_suffix(".bin").stat().st_size
    assert check_parity(Plain(), "openvino", path).restored < 1e-4
    export_openvino(Plain(), path, half=True)
    assert path.with_suffix(".bin").stat().st_size < full
    with pytest.raises(InputError, match=r"\.xml"):
        export_openvino(Plain(), tmp_path / "net.onnx")


def test_eight_bits_stay_near(exported: Path, tmp_path: Path) -> None:
    faces = [np.random.default_rng(i).random((2, 3, 40, 32), dtype=np.float32) for i in range(3)]
    target = tmp_path / "net.int8.onnx"
    quantise_onnx(exported, target, faces)
    nodes = onnx.load(str(target)).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    # In float32 the heads alone: of the first pass, the kernel net and the pass in the one loop.
    heads = [node for node in convolutions if node.input[1].endswith("head.weight")]
    assert len(heads) == 3
    quantised = [node for node in convolutions if node not in heads]
    assert len(quantised) > 30
    assert all(made_by[name] == "DequantizeLinear" for node in quantised for name in node.input[:2])
    full, _ = load_backend("onnxruntime", exported).run(faces[0])
    few, _ = load_backend("onnxruntime", target).run(faces[0])
    psnr = -10 * np.log10(np.mean((full - few) ** 2))
    assert psnr > 35
    with pytest.raises(InputError, match="calibrate"):
        quantise_onnx(exported, target, [])


def test_the_packaged_eight_bits_belong_to_the_packaged_weights() -> None:
    path = FOLDER / "fast.int8.onnx"
    card = {prop.key: prop.value for prop in onnx.load(str(path)).metadata_props}
    assert json.loads(card["blurface_fingerprint"])["weights"] == model_digest("fast")
    stage = DeblurStage.from_pretrained("fast", backend="onnxruntime", precision="int8")
    own = Gate.of_weights("fast")
    assert own is not None
    # An exported graph runs to its end: no early threshold.
    assert stage.gate == dataclasses.replace(own, early=None)
    photograph = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None] / 255
    face = photograph[..., 36:192, 156:296]
    psf = torch.from_numpy(sample_kernels(1, np.random.default_rng(3), valid_size=(12, 12), size=45))
    blurry = blur(face, psf, margin=22)
    few = stage.restorer.restore(blurry)
    full = create_restorer("fast", precision="float32").restore(blurry)
    sharp = face[..., 22:-22, 22:-22]
    assert mean_psnr(few, full) > 38  # type: ignore[arg-type]
    assert mean_psnr(few, sharp) > mean_psnr(blurry, sharp) + 3  # type: ignore[arg-type]


def test_mistakes_are_told(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="tensorrt"):
        create_backend_restorer("fast", "tensorrt")
    with pytest.raises(UnknownNameError, match="tensorrt"):
        load_backend("tensorrt", exported)
    with pytest.raises(InputError, match="does not exist"):
        load_backend("onnxruntime", tmp_path / "none.onnx")
    with pytest.raises(InputError, match="bf16"):
        load_backend("onnxruntime", exported, precision="bf16")
    with pytest.raises(InputError, match="exported already"):
        create_backend_restorer("fast", "onnxruntime", model=exported, loops=3)
    with pytest.raises(InputError, match="static"):
        load_backend("onnxruntime", exported, static=[(1, 8, 8)])
    with pytest.raises(InputError, match="no 8-bit model"):
        create_backend_restorer("plain", "onnxruntime", precision="int8")
    with pytest.raises(InputError, match="no network"):
        export_onnx(DeblurStage.from_pretrained("none").restorer, tmp_path / "a.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    for name in ["onnxruntime", "openvino"] if has_openvino else ["onnxruntime"]:
        with pytest.raises(WeightsError, match=r"bad\.onnx"):
            load_backend(name, tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("bf16", "installed", "name", "best"),
    [
        (False, {"onnxruntime", "onnx", "openvino"}, "fast", "onnxruntime"),
        (False, {"onnxruntime", "openvino"}, "fast", "torch"),  # nothing to export with
        (False, {"openvino"}, "fast", "torch"),
        (False, set(), "fast", "torch"),
        (True, {"onnxruntime", "onnx"}, "fast", "torch"),
        (False, {"onnxruntime", "onnx"}, "deepdeblur", "torch"),
        (False, {"onnxruntime", "onnx"}, "krishnan", "torch"),
    ],
)
def test_auto_takes_the_fastest_that_is_there(
    bf16: bool, installed: set[str], name: str, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blurface.weights.bf16_is_fast", lambda: bf16)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    assert best_backend(name) == best


@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_auto_takes_a_runtime_for_what_only_runtimes_take(
    in_torch: bool, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blurface.weights.bf16_is_fast", lambda: bf16)
    monkeypatch.setattr("blurface.stage.find_spec", lambda name: name)
    static = [(1, 112, 96)]
    for options, best in (
        ({"precision": "int8"}, "onnxruntime"),
        ({"model": "x.onnx"}, "onnxruntime"),
        ({"threads": 2}, "onnxruntime"),
        ({"model": Path("x.xml")}, "openvino"),
        ({"static": static}, "openvino"),
        ({"precision": "int8", "static": static}, "openvino"),
        ({"precision": "bf16", "threads": 2}, "openvino"),
        ({"precision": "bf16"}, "torch"),
    ):
        assert _backend_for("deepdeblur", in_torch, options) == best
    assert _backend_for("exported:x.onnx", in_torch, {"threads": 2}) == "torch"  # its own option
    monkeypatch.setattr("blurface.stage.find_spec", lambda name: name if name == "openvino" else None)
    assert _backend_for("fast", in_torch, {"precision": "int8"}) == "openvino"
    monkeypatch.setattr("blurface.stage.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"threads.*int8.*blurface\[onnx\]"):
        _backend_for("fast", in_torch, {"precision": "int8", "threads": 2})


def test_auto_runs_what_only_runtimes_take(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurface.weights.bf16_is_fast", lambda: True)
    for name, options in (
        ("fast", {"precision": "int8"}),
        ("untrained", {"model": exported, "threads": 2}),
        (f"exported:{exported}", {"threads": 2}),
    ):
        stage = DeblurStage.from_pretrained(name, backend="auto", gate=False, **options)
        assert stage.restorer.options() == {"backend": "onnxruntime", "precision": "fp32"}
    with pytest.raises(InputError, match="no 8-bit model of 'deepdeblur'"):
        DeblurStage.from_pretrained("deepdeblur", backend="auto", precision="int8")
    monkeypatch.setattr("blurface.stage.resolve_device", torch.device)  # where there is a GPU
    with pytest.raises(InputError, match="CPU, not on cuda"):
        DeblurStage.from_pretrained("fast", device="cuda", backend="auto", precision="int8")


def test_an_export_without_onnx_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"blurface\[onnx\]"):
        export_onnx(Untrained(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_exported_file_carries_the_gate_of_its_own_weights(tmp_path: Path) -> None:
    packaged = create_restorer("fast")
    own = tmp_path / "own.safetensors"
    module = Untrained().module
    options = {"width": 16, "deep": 16, "kernel_width": 8, "kernel_deep": 8, "loops": 1, "centring": 0.6}
    save_model(own, module.state_dict(), "fast", options, {})
    own.with_suffix(".json").write_text('{"gate": {"low": 5.0, "high": 9.0}}')
    export_onnx(create_restorer("fast", weights=own, precision="fp32"), tmp_path / "own.onnx")
    assert packaged.calibrated_gate() != Gate(5, 9)
    for backend in ["onnxruntime", "openvino"] if has_openvino else ["onnxruntime"]:
        restorer = create_backend_restorer("fast", backend, model=tmp_path / "own.onnx")
        assert restorer.calibrated_gate() == Gate(5, 9)
        twin = copy.deepcopy(restorer)
        batch = torch.rand(1, 3, 24, 32)
        assert torch.equal(twin.restore(batch), restorer.restore(batch))  # type: ignore[arg-type]
        with pytest.raises(WeightsError, match="holds the network 'fast'"):
            create_backend_restorer("plain", backend, model=tmp_path / "own.onnx")


def test_openvino_file_keeps_the_card(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    export_openvino(Plain(), tmp_path / "a.xml")
    assert load_backend("openvino", tmp_path / "a.xml").card["blurface_model"] == Plain.name


def test_damaged_file_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path))
    batch = torch.rand(1, 3, 24, 32)
    expected = create_backend_restorer("plain", "onnxruntime").restore(batch)
    (kept,) = (tmp_path / "exports").glob("*.onnx")
    kept.write_bytes(kept.read_bytes()[:1000])
    again = create_backend_restorer("plain", "onnxruntime", precision="float32").restore(batch)
    assert torch.equal(again, expected)  # type: ignore[arg-type]


def test_nan_is_no_parity(tmp_path: Path, exported: Path) -> None:
    class Spoilt(Untrained):
        def _restore(self, batch: Tensor, kernels: Any, return_kernel: bool) -> tuple[Tensor, Tensor | None]:
            restored, kernel = super()._restore(batch, kernels, return_kernel)
            return restored * torch.nan, kernel

    with pytest.raises(BlurfaceError, match="differs"):
        check_parity(Spoilt(), "onnxruntime", exported, tolerance=1e-3)


def test_a_wrong_export_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Differs(Plain):
        def _restore(self, batch: Tensor, kernels: Any, return_kernel: bool) -> tuple[Tensor, None]:
            return batch, None

    with pytest.raises(BlurfaceError, match="differs from PyTorch"):
        export_onnx(Differs(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- command


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Weights of a small ``plain``, as training writes them."""
    options = {"width": 8, "deep": 8, "blocks": [1, 1, 1]}
    module = Plain().module
    save_model(tmp_path / "tiny.safetensors", module.state_dict(), "plain", options, {})
    return tmp_path / "tiny.safetensors"


def test_command_writes_and_says_how_near(tiny: Path, tmp_path: Path) -> None:
    result = export("--model", "plain", "--weights", tiny, "--out", tmp_path / "a.onnx")
    assert result.exit_code == 0, result.stderr
    assert "largest difference to PyTorch" in result.stdout
    batch = np.random.default_rng(0).random((1, 3, 30, 50), dtype=np.float32)
    restored, kernels = load_backend("onnxruntime", tmp_path / "a.onnx").run(batch)
    assert kernels is None
    np.testing.assert_allclose(restored, Plain().restore(torch.from_numpy(batch)), atol=1e-3)
    if has_openvino:
        arguments = ["--format", "openvino", "--precision", "fp16", "--out", str(tmp_path / "a.xml")]
        assert export("--model", "plain", "--weights", tiny, *arguments).exit_code == 0
        assert (tmp_path / "a.bin").is_file()


def test_command_calibrates_eight_bits_on_other_faces_than_it_measures(tiny: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "faces").mkdir()
    for i in range(16):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 7, 3), dtype=np.uint8))
        coarse.resize((96, 112), Image.Resampling.BICUBIC).save(tmp_path / "faces" / f"{i}.png")
    common = [
        "--model",
        "plain",
        "--weights",
        tiny,
        "--precision",
        "int8",
        "--calibration",
        tmp_path / "faces",
    ]
    result = export(*common, "--faces", "8", "--out", tmp_path / "a.onnx")
    assert result.exit_code == 0, result.stderr
    assert "calibrated on 8 faces; PSNR on 8 others" in result.stdout
    result = export(*common, "--faces", "100", "--out", tmp_path / "b.onnx")
    assert result.exit_code == 1
    assert "holds 16 faces; 150 are needed" in result.stderr
    assert not (tmp_path / "b.onnx").exists()


def test_command_refuses_what_cannot_be(tiny: Path, tmp_path: Path) -> None:
    weights = ["--model", "plain", "--weights", str(tiny)]
    assert export(*weights, "--precision", "fp16").exit_code == 2
    assert export(*weights, "--precision", "int8").exit_code == 2
    assert export(*weights, "--precision", "int8", "--format", "openvino").exit_code == 2
    for option in (("--calibration", tmp_path), ("--faces", 128), ("--seed", 0)):
        result = export(*weights, *option, "--out", tmp_path / "a.onnx")
        assert result.exit_code == 2
        assert f"{option[0]} needs --precision int8" in result.stderr
        assert not (tmp_path / "a.onnx").exists()
    result = export(*weights, "--out", tmp_path / "none" / "a.onnx")
    assert result.exit_code == 1
    assert "does not exist" in result.stderr
    assert export("--model", "none", "--out", tmp_path / "a.onnx").exit_code == 1


def test_large_pictures_go_through_another_runtime_in_tiles(exported: Path) -> None:
    backend = load_backend("onnxruntime", exported)
    restorer = BackendRestorer("untrained", backend, "0")
    batch = torch.rand(1, 3, 50, 400, generator=torch.Generator().manual_seed(0))
    restored, kernels = restorer.restore(batch, return_kernel=True)
    assert restored.shape == batch.shape
    assert kernels.shape == (1, 43, 43)
    left, _ = backend.run(batch[..., :384].numpy())
    torch.testing.assert_close(restored[..., :16], torch.from_numpy(left)[..., :16], atol=1e-5, rtol=0)
