"""A run on real photographs, from the verify command to its page, figures and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from blurface.cli import main
from protocols.analysis import ranked_pairs
from protocols.degradation import from_bytes
from protocols.pictures import check_restorer, pictures_of_run
from protocols.quality import psnr
from protocols.run_folder import read_run

pytestmark = pytest.mark.real


def test_facescrub_from_command_to_page(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["verify", "--pairs", "facescrub", "--data-root", str(shared / "data"), "--subset", "12"]
    arguments += ["--restorer", "none", "--restorer", "wiener", "--out", str(out), "--jobs", "1", "-q"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    page = CliRunner().invoke(main, ["report", str(out), "--pairs-shown", "2", "-q"])
    assert page.exit_code == 0, page.output
    text = (out / "report.html").read_text()
    assert "https://" not in text.replace("http-equiv", "")
    assert text.count("data:image/png") >= 4

    # Mean PSNR of the pictures that are made again is the figure of the run.
    run = read_run(out)
    worst, best = ranked_pairs(run.summary.scores["mobilefacenet"], "wiener", run.summary.kernels, 3)
    assert worst or best
    probes = sorted(set(run.summary.scores["mobilefacenet"]["probe"].astype(str)))
    pictures = pictures_of_run(run, probes, verifier="mobilefacenet")
    check_restorer(run, pictures, "wiener")
    for restorer in ("none", "wiener"):
        made = np.stack(pictures.restored_batch(probes, "4", restorer))
        sharp = np.stack([pictures.sharp(probe) for probe in probes])
        batches = [torch.from_numpy(each).permute(0, 3, 1, 2) for each in (made, sharp)]
        assert from_bytes(batches[0]).shape == (len(probes), 3, 112, 96)
        expected = run.summary.value("mobilefacenet", restorer, "4", "psnr")
        assert float(psnr(*batches).mean()) == pytest.approx(expected, abs=1e-5)

    drawn = CliRunner().invoke(
        main,
        ["figures", str(out), "--which", "8,roc,det,shift,length", "--out", str(tmp_path / "figures"), "-q"],
    )
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "figures" / "figure-08-psnr-mobilefacenet.svg").exists()
