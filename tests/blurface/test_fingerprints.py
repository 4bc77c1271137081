"""What a digest of code sees, and how far it reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from blurface.fingerprints import class_digest, code_digest, modules_behind, versions_of
from blurface.networks import fast, fourier
from blurface.networks.deepdeblur import DeepDeblurNet
from blurface.networks.plain import PlainNet
from blurface.restorers import create_restorer
from blurface.restorers.classical.sun import Sun


def test_code_digest_sees_code_and_not_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        return code_digest(__import__(name))

    base = digest("digest_a", '"""Doc."""\ndef f(x):\n    """Doc."""\n    return x + 1\n')
    assert digest("digest_b", '"""Other."""\ndef f(x):\n    # why\n    return x + 1\n') == base
    assert digest("digest_c", "def f(x):\n    return x + 2\n") != base
    assert code_digest(fourier, fast) != code_digest(fast, fourier)


def test_modules_behind_follow_what_is_taken_from_a_package() -> None:
    def behind(kind: type, package: str) -> set[str]:
        return {module.__name__.rsplit(".", 1)[-1] for module in modules_behind(kind, package)}

    # the control's U-Net lies in fast.py, whose transforms lie in fourier.py
    assert behind(PlainNet, "blurface.networks") == {"plain", "fast", "fourier", "packed"}
    assert behind(DeepDeblurNet, "blurface.networks") == {"deepdeblur", "packed", "tiled"}
    assert {"base", "core", "epll", "kernel_fit", "sun"} <= behind(Sun, "blurface.restorers")


def test_fingerprint_sees_what_the_class_stands_on(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    restorer = create_restorer("plain")
    before = restorer.fingerprint()
    assert restorer.fingerprint() == before
    code_digest.cache_clear()  # code does not change in a process, but for this test
    request.addfinalizer(code_digest.cache_clear)
    monkeypatch.setattr(fourier, "__name__", "blurface.networks.elsewhere")
    monkeypatch.setattr(
        "blurface.fingerprints.inspect.getsource", lambda module: module.__name__.split(".")[-1]
    )
    assert restorer.fingerprint()["network"] != before["network"]


def test_class_without_source_has_no_digest() -> None:
    assert class_digest(type("Made", (), {"__module__": "nowhere"})) == code_digest()
    assert class_digest(type("Compiled", (), {"__module__": "builtins"})) == "?"


def test_versions_leave_out_what_is_not_installed() -> None:
    assert list(versions_of("torch", "no-such-distribution")) == ["torch"]
    assert create_restorer("wiener").fingerprint()["versions"].keys() == {"scikit-image", "scipy"}
