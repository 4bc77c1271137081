"""What lies beyond the border: the Wiener layer of ``fast``, pictures continued by a ramp or by an estimate.

    python benchmarks/borders.py --data training/celeba.parquet [--out FILE.csv]

The faces that ``blurface train`` holds out, each under one trajectory, real margins, no noise. The last
Wiener image under the first pair of learned regularisers is compared with the sharp face: with the kernel
that the network estimates and with the true one, the blurry face continued by a cosine ramp to its opposite
border, or as the network's result, blurred with the same kernel, goes on (``reblurred``). ``edge`` is the
PSNR of the outer 16 pixels, ``middle`` that of the rest.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import torch
from held_out import PLAIN, held_out_pairs, inside_fast
from torch import Tensor

from blurface.networks.fast import FastNet, _Problem, centre_of_mass

EDGE = 16


def main() -> None:
    given, network, config, faces = inside_fast(__doc__)
    rows = []
    for low, high in ((5, 12), (12, 21), (21, 31)):
        settings = replace(PLAIN, valid_size=(low, high))
        errors: dict[tuple[str, str], list[Tensor]] = {}
        for pairs in held_out_pairs(faces, settings, config.seed):
            for key, image in wiener_images(network, pairs.blurry, pairs.kernels).items():
                errors.setdefault(key, []).append((image.clamp(0, 1) - pairs.sharp).square().mean(1))
        for (kernel, beyond), parts in errors.items():
            error = torch.cat(parts)
            middle = torch.zeros(error.shape[1:], dtype=torch.bool)
            middle[EDGE:-EDGE, EDGE:-EDGE] = True
            row: dict[str, object] = {"pixels": f"{low} to {high}", "kernel": kernel, "beyond": beyond}
            for name, part in (
                ("all", error.flatten(1)),
                ("middle", error[:, middle]),
                ("edge", error[:, ~middle]),
            ):
                row[name] = round(float(-10 * part.mean(1).log10().mean()), 2)
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if given.out is not None:
        pd.DataFrame(rows).to_csv(given.out, index=False)


@torch.inference_mode()
def wiener_images(network: FastNet, blurry: Tensor, true: Tensor) -> dict[tuple[str, str], Tensor]:
    """(kernel, beyond the border) to the Wiener image (N, 3, H, W)."""
    estimate = network.estimate(blurry)
    found, result = estimate.kernels[-1], estimate.images[-1]
    problem = _Problem(blurry, network.luma, matrix=False)
    images = {}
    for kernel, psf, centring in (("estimated", found, network.centring), ("true", true, 0.0)):
        off_centre = centring * centre_of_mass(psf)
        for beyond, by in (("ramp", None), ("estimate", result)):
            sharp, _ = problem.deconvolve(psf, network.wiener[None], off_centre, by)
            images[kernel, beyond] = sharp[:, :3] + 0.5
    return images


if __name__ == "__main__":
    main()
