"""Write the MobileFaceNet verifier as an ONNX file that InsightFace and uniface load.

    python examples/mobilefacenet_onnx.py mobilefacenet.onnx

Its input is what both prepare: RGB, (x - 127.5) / 127.5, 112 x 96. Without the checkpoint (see
``blurface data path mobilefacenet``) the weights are random.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import blurface
from verification.embedders import create_embedder
from verification.embedders.mobilefacenet import MobileFaceNet


class Prepared(nn.Module):
    """The network behind the normalisation of ArcFace's ONNX files."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 96) in [-1, 1] to (N, 128)."""
        embedding: Tensor = self.network((x + 1) / 2)
        return embedding


def export(path: Path) -> str:
    """Write the file; return a note on its weights."""
    try:
        network = create_embedder("mobilefacenet").module
        note = "Recogniser: MobileFaceNet, CASIA-WebFace."
    except blurface.BlurfaceError:
        torch.manual_seed(0)
        network = MobileFaceNet().eval()
        note = (
            "Random recogniser (no checkpoint on this machine): the numbers show only that all fits together."
        )
    assert network is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter speaks of its own future
        torch.onnx.export(
            Prepared(network).eval(),
            (torch.zeros(1, 3, 112, 96),),
            str(path),
            dynamo=False,
            input_names=["input"],
            output_names=["embedding"],
            dynamic_axes={"input": {0: "n"}, "embedding": {0: "n"}},
        )
    return note


if __name__ == "__main__":
    print(export(Path(sys.argv[1] if len(sys.argv) > 1 else "mobilefacenet.onnx")))
