"""The stage: same kind out, order kept, gate obeyed, gradients on request, threads at once."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from stage_support import BrightenRestorer
from torch import Tensor

import blurface
from blurface.errors import BlurfaceError, ImageError, InputError, UnknownNameError, WeightsError
from blurface.gate import Gate
from blurface.networks.packed import packing_serves
from blurface.restorers import create_restorer
from blurface.restorers.base import Restorer
from blurface.restorers.network import NetworkRestorer
from blurface.stage import DeblurStage, resolve_device
from blurface.weights import list_models, save_model

GATE = Gate(low=0.5, high=2.0)


def faces(*means: float, height: int = 12, width: int = 10) -> Tensor:
    """Constant faces; Brighten scores the mean m by a line of 2 floor(4.999 m) + 1 pixels."""
    return torch.tensor(means)[:, None, None, None].expand(-1, 3, height, width).contiguous()


def spread(pixels: int) -> float:
    return math.sqrt((pixels**2 - 1) / 12)


def test_same_type_dtype_range_and_size_for_every_kind() -> None:
    stage = DeblurStage(BrightenRestorer())
    array = np.full((12, 10, 3), 100, np.uint8)
    back = stage(array)
    assert back.dtype == np.uint8
    assert (back == 178).all()  # (255 + 100) / 2 = 177.5, to even
    assert np.asarray(stage(Image.fromarray(array)))[0, 0].tolist() == [178] * 3
    np.testing.assert_allclose(stage(array.astype(np.float32) / 255), (1 + array / 255) / 2, atol=1e-6)
    half = stage(faces(0.2, 0.4).half())
    assert half.dtype == torch.float16
    np.testing.assert_allclose(half[:, 0, 0, 0].tolist(), [0.6, 0.7], atol=1e-3)
    signed = stage(torch.full((1, 3, 4, 4), -1.0), value_range=(-1, 1))
    torch.testing.assert_close(signed, torch.zeros(1, 3, 4, 4))
    sizes = [image.size for image in stage([Image.fromarray(array), Image.fromarray(array[:6, :5])])]
    assert sizes == [(10, 12), (5, 6)]


def test_order_is_kept_over_sizes_and_batches_and_memory_is_bounded() -> None:
    restorer = BrightenRestorer()
    stage = DeblurStage(restorer, batch_size=3)
    sizes = [(12, 10), (6, 5)] * 5
    items = [faces(i / 10, height=h, width=w)[0] for i, (h, w) in enumerate(sizes)]
    back, info = stage(items, return_info=True)
    for i, restored in enumerate(back):
        torch.testing.assert_close(restored, (1 + items[i]) / 2)
    assert len(info) == 10
    assert sorted(restorer.shapes) == sorted([(3, 3, 12, 10), (2, 3, 12, 10), (3, 3, 6, 5), (2, 3, 6, 5)])
    restorer.shapes.clear()
    DeblurStage(restorer, batch_size=64)(torch.zeros(4, 3, 512, 512))
    assert restorer.shapes == [(2, 3, 512, 512)] * 2


def test_gate_passes_blends_and_restores() -> None:
    stage = DeblurStage(BrightenRestorer(), gate=GATE)
    x = faces(0.1, 0.3, 0.9)
    back, info = stage(x, return_info=True)
    assert torch.equal(back[0], x[0])
    assert [d.action for d in info] == ["pass", "blend", "restore"]
    assert [d.score for d in info] == pytest.approx([0, spread(3), spread(9)], abs=1e-6)
    weight = (spread(3) - 0.5) / 1.5
    assert info[1].weight == pytest.approx(weight)
    torch.testing.assert_close(back[1], x[1] + weight * ((1 + x[1]) / 2 - x[1]))
    torch.testing.assert_close(back[2], (1 + x[2]) / 2)


def test_without_gate_everything_is_restored_and_still_scored_on_request() -> None:
    stage = DeblurStage(BrightenRestorer())
    back, kernels, info = stage(faces(0.1, 0.9), return_kernel=True, return_info=True)
    torch.testing.assert_close(back, faces(0.55, 0.95))
    assert [d.action for d in info] == ["restore", "restore"]
    assert info[1].score == pytest.approx(spread(9))
    assert kernels.shape == (2, 9, 9)
    assert stage(faces(0.1), return_info=True)[1][0].score is None
    assert stage(torch.zeros(0, 3, 4, 4), return_kernel=True)[1].shape == (0, 1, 1)


def test_without_gate_a_kernel_that_costs_nothing_is_scored() -> None:
    stage = DeblurStage(Scored())
    back, info = stage(faces(0.1, 0.9), return_info=True)
    assert [d.score for d in info] == pytest.approx([0, spread(9)], abs=1e-6)
    assert [d.action for d in info] == ["restore", "restore"]
    assert torch.equal(back, stage(faces(0.1, 0.9)))


def test_differentiable_on_request_only() -> None:
    x = faces(0.1, 0.3, 0.9).requires_grad_()
    assert not DeblurStage(BrightenRestorer())(x).requires_grad
    stage = DeblurStage(BrightenRestorer(), gate=GATE, differentiable=True)
    out, info = stage(x, return_info=True)
    out.sum().backward()
    assert x.grad is not None
    for face, decision in zip(x.grad, info):
        torch.testing.assert_close(face, torch.full_like(face, 1 - 0.5 * decision.weight))
    with torch.no_grad():
        assert not stage(x).requires_grad
    double = faces(0.3).double().requires_grad_()
    assert stage(double).dtype == torch.float64
    with pytest.raises(InputError, match="no gradient"):
        DeblurStage(Detaches(), differentiable=True)(x)
    with pytest.raises(InputError, match="no PyTorch network"):
        DeblurStage.from_pretrained("none", differentiable=True)


def test_many_threads_give_what_one_gives() -> None:
    stage = DeblurStage(BrightenRestorer(), gate=GATE)
    inputs = [faces(*np.random.default_rng(i).random(1 + i % 5).tolist()) for i in range(40)]
    expected = [stage(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(stage, inputs), expected):
            assert torch.equal(got, wanted)


def test_input_is_never_changed() -> None:
    for x in (faces(0.1, 0.9), faces(0.1, 0.9).numpy().transpose(0, 2, 3, 1).copy()):
        before = x.copy() if isinstance(x, np.ndarray) else x.clone()
        back = DeblurStage(BrightenRestorer(), gate=GATE)(x)
        back += 1
        assert (x == before).all()


class Detaches(BrightenRestorer):
    def _restore(self, batch: Tensor, kernels: Any, return_kernel: bool) -> Any:
        return batch.detach(), None


class Scored(BrightenRestorer):
    estimates_kernel = True


class Oracle(BrightenRestorer):
    name = "oracle"
    blind = False


class Exhausted(BrightenRestorer):
    def _restore(self, batch: Tensor, kernels: Any, return_kernel: bool) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")


class Broken(BrightenRestorer):
    def _restore(self, batch: Tensor, kernels: Any, return_kernel: bool) -> Any:
        raise RuntimeError("something else")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="true kernel"):
        DeblurStage(Oracle())
    with pytest.raises(InputError, match="batch_size"):
        DeblurStage(BrightenRestorer(), batch_size=0)
    with pytest.raises(InputError, match="gate"):
        DeblurStage.from_pretrained("none", gate=GATE)(faces(0.5))
    with pytest.raises(InputError, match="kernel estimate"):
        DeblurStage.from_pretrained("none")(faces(0.5), return_kernel=True)
    with pytest.raises(UnknownNameError, match="fats"):
        DeblurStage.from_pretrained("fats")
    with pytest.raises(BlurfaceError, match="device"):
        DeblurStage.from_pretrained("none", device="abacus")
    with pytest.raises(ImageError, match="does not fit in memory"):
        DeblurStage(Exhausted())(faces(0.5))
    with pytest.raises(RuntimeError, match="something else"):
        DeblurStage(Broken())(faces(0.5))
    with pytest.raises(ImageError, match="NaN"):
        DeblurStage(BrightenRestorer())(torch.full((1, 3, 4, 4), torch.nan))


def test_from_pretrained_and_repr() -> None:
    stage = blurface.DeblurStage.from_pretrained("none")
    x = torch.rand(2, 3, 5, 5)
    assert torch.equal(stage(x), x)
    assert repr(DeblurStage(BrightenRestorer(), gate=GATE)) == (
        "DeblurStage('brighten', device='cpu', gate=0.5..2 px)"
    )
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(BlurfaceError, match="'meta' cannot be used"):
        resolve_device("meta")  # it takes tensors, and computes nothing
    assert isinstance(stage.restorer, Restorer)


def test_importing_blurface_does_not_import_torch() -> None:
    code = "import sys, blurface; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif("fast" not in list_models(), reason="the package holds no weights of 'fast'")
def test_the_packaged_network_serves_threads_of_different_sizes() -> None:
    stage = DeblurStage.from_pretrained("fast", device="cpu")
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for h, w in [(40, 32), (33, 47), (64, 24)] * 2
    ]
    with ThreadPoolExecutor(3) as pool:  # sizes that no call has prepared before
        together = list(pool.map(stage, pictures))
    for picture, got in zip(pictures, together, strict=True):
        difference = np.asarray(stage(picture)).astype(int) - np.asarray(got)
        assert abs(difference).max() <= 1


def test_result_has_no_gradient_unless_asked_for() -> None:
    """Whatever the gate decides."""
    stage = DeblurStage.from_pretrained("fast", device="cpu")
    sharp = torch.from_numpy(skimage.data.astronaut()[20:132, 170:266]).permute(2, 0, 1)[None] / 255
    restored, info = stage(sharp.requires_grad_(), return_info=True)
    assert [one.action for one in info] == ["pass"]
    assert not restored.requires_grad
    assert not stage(torch.zeros(0, 3, 112, 96, requires_grad=True)).requires_grad


def test_gate_is_a_gate() -> None:
    for given in ((3.0, 8.0), "on", 1):
        with pytest.raises(InputError, match="gate is"):
            DeblurStage.from_pretrained("none", gate=given)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="gate is"):
            DeblurStage(create_restorer("none"), gate=given)  # type: ignore[arg-type]


def test_gated_restorer_becomes_the_stages_own_gate() -> None:
    stage = DeblurStage.from_pretrained("gated", low=2.0, high=3.0, device="cpu")
    assert (stage.restorer.name, stage.gate) == ("fast", Gate(2, 3))
    flat = np.full((112, 96, 3), 90, np.uint8)
    _, info = stage(flat, return_info=True)
    assert info[0].score is not None


def test_a_gated_restorer_s_faces_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from blurface.restorers import restorers
    from blurface.restorers.gated import Gated

    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    restorers.register("brighten", BrightenRestorer)
    stage = DeblurStage(Gated("brighten", low=0.5, high=2.0))
    x = faces(0.1, 0.9)
    restored, info = stage(x, return_info=True)
    assert [decision.action for decision in info] == ["pass", "restore"]
    assert torch.equal(restored[0], x[0])
    assert DeblurStage(Gated("brighten", low=0.5, high=2.0), gate=Gate(1, 1)).gate == Gate(1, 1)


def test_what_cannot_be_traced_says_so() -> None:
    stage = DeblurStage(BrightenRestorer())
    with pytest.raises(InputError, match="trace"):
        torch.jit.trace(lambda x: stage(x), (faces(0.5),))
    with pytest.raises(InputError, match="restorer is 'fast'"):
        DeblurStage("fast")  # type: ignore[arg-type]


def test_a_compiled_recogniser_leaves_its_stage_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)).eval()
    x = faces(0.2, 0.6)
    blurface.attach(model, DeblurStage(BrightenRestorer()), preset="unit")
    expected = model(x)
    graphs = []

    def count(graph: torch.fx.GraphModule, example: list[Any]) -> Any:
        graphs.append([node.target for node in graph.graph.nodes if node.op.startswith("call")])
        return graph.forward

    found = torch.compile(model, backend=count)(x)
    torch.testing.assert_close(found, expected)
    assert len(graphs) == 1  # the convolution, and nothing of the stage
    assert len(graphs[0]) == 1


def test_an_export_of_the_network_spoils_no_later_call() -> None:
    restorer = create_restorer("fast")
    assert isinstance(restorer, NetworkRestorer)
    x = torch.rand(1, 3, 56, 40, generator=torch.Generator().manual_seed(0))
    torch.export.export(restorer.module, (x,), strict=False)
    restored, kernel = restorer.restore(x, return_kernel=True)
    assert isinstance(restored, Tensor)
    assert torch.isfinite(restored).all()
    # What inference made can take part in training.
    weight = torch.ones(kernel.shape[1:], requires_grad=True)
    (kernel * weight).sum().backward()
    torch.testing.assert_close(weight.grad, kernel[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_type_of_the_caller_changes_nothing(dtype: torch.dtype) -> None:
    x = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    expected = DeblurStage.from_pretrained("fast", device="cpu")(x)

    def as_exported() -> Tensor:
        module = create_restorer("fast", precision="float32").module  # type: ignore[attr-defined]
        module.matrix_fourier = True
        with torch.inference_mode():
            result: Tensor = module(x)
        return result

    exported = as_exported()
    packing_serves.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        found = DeblurStage.from_pretrained("fast", device="cpu")(x)
        again = as_exported()
    finally:
        torch.set_default_dtype(torch.float32)
        packing_serves.cache_clear()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, exported, atol=1e-6, rtol=0)


def test_a_stage_made_in_inference_mode_is_differentiable() -> None:
    with torch.inference_mode():
        stage = DeblurStage.from_pretrained("plain", device="cpu", gate=False, differentiable=True)
    leaf = torch.rand(1, 3, 32, 24).requires_grad_()
    stage(leaf).sum().backward()
    assert leaf.grad is not None


def test_the_network_of_fast_tells_shapes_without_values() -> None:
    module = create_restorer("fast", precision="float32").module.to("meta")  # type: ignore[attr-defined]
    with torch.inference_mode():
        restored, kernel = module(torch.empty(2, 3, 48, 40, device="meta"), return_kernel=True)
    assert (restored.shape, kernel.shape) == ((2, 3, 48, 40), (2, 43, 43))


def test_what_holds_no_values_leaves_nothing_behind() -> None:
    """A pass of fake tensors, as tools make to learn shapes, does not spoil the passes after it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = create_restorer("fast", precision="float32").module  # type: ignore[attr-defined]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.inference_mode():
        assert module(mode.from_tensor(torch.rand(1, 3, 48, 56))).shape == (1, 3, 48, 56)
    with torch.inference_mode():
        assert type(module(torch.rand(1, 3, 48, 56))) is torch.Tensor


def test_arguments_that_are_of_no_use_are_named() -> None:
    with pytest.raises(InputError, match="None is no restorer's name"):
        DeblurStage.from_pretrained(None)  # type: ignore[arg-type]
    with pytest.raises(BlurfaceError, match="device 'None' cannot be used"):
        DeblurStage.from_pretrained("plain", device=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_size is True"):
        DeblurStage.from_pretrained("plain", device="cpu", batch_size=True)
    DeblurStage.from_pretrained("plain", device="cpu", batch_size=np.int64(4))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threads is -1"):
        DeblurStage.from_pretrained("plain", device="cpu", backend="onnxruntime", threads=-1)


def test_tensors_without_pictures_and_odd_strides() -> None:
    stage = DeblurStage(create_restorer("none"))
    with pytest.raises(ImageError, match="without values"):
        stage(torch.empty(1, 3, 8, 8, device="meta"))
    with pytest.raises(ImageError, match="nested"):
        stage(torch.nested.nested_tensor([torch.rand(3, 8, 8), torch.rand(3, 9, 8)]))
    packed = np.zeros((8, 8), np.dtype([("flag", "u1"), ("rgb", "f4", 3)]))
    packed["rgb"] = np.random.default_rng(0).random((8, 8, 3))
    np.testing.assert_allclose(stage(packed["rgb"]), packed["rgb"], atol=1e-6)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(WeightsError, match="weights of 'plain', not of 'fast'"):
        DeblurStage.from_pretrained("fast", weights="plain")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    module = create_restorer("plain").module  # type: ignore[attr-defined]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    next(iter(state.values())).fill_(torch.nan)
    save_model(tmp_path / "nan.safetensors", state, "plain", {}, {})
    with pytest.raises(WeightsError, match="NaN"):
        create_restorer("plain", weights=tmp_path / "nan.safetensors")


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_either_name_of_a_precision_serves_every_backend(backend: str) -> None:
    for precision in ("fp32", "float32"):
        stage = DeblurStage.from_pretrained("plain", backend=backend, precision=precision, device="cpu")
        assert stage(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16, 3)
    assert DeblurStage.from_pretrained("none", backend="auto", device="cpu").restorer.name == "none"
