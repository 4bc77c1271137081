"""The classical methods as restorers: options, unusable pictures and kernels."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from blurface.errors import BlurfaceError, InputError
from blurface.restorers import create_restorer
from blurface.restorers.classical import core

NONBLIND = ("sparse-deconv", "fast-deconv", "epll")
BLIND: dict[str, dict[str, Any]] = {
    "krishnan": {},
    "levin": {},
    "pan": {},
    "perrone": {"iterations": 4},
    "sun": {"iterations": 1, "solver_iterations": 4},
    "michaeli": {"iterations": 1, "solver_iterations": 4},
}
"""With options that make them quick. Chakrabarti's needs larger pictures than those here."""


@pytest.mark.parametrize("name", [*BLIND, "chakrabarti", *NONBLIND])
def test_options_signature_and_fingerprint(name: str) -> None:
    restorer = create_restorer(name)
    options = restorer.options()
    shown = inspect.signature(type(restorer)).parameters
    assert set(options) == set(shown) - {"device"}
    assert all(options[key] == shown[key].default for key in options)
    assert restorer.fingerprint()["options"] == options
    assert restorer.fingerprint() == create_restorer(name).fingerprint()
    assert ("kernel_size" in options) == restorer.blind


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("krishnan", {"kernel_size": 8}),
        ("krishnan", {"kernel_size": 1}),
        ("krishnan", {"fidelity": -1.0}),
        ("krishnan", {"wrong": 1}),
        ("pan", {"gradient": 0.0}),
        ("levin", {"iterations": 0}),
        ("sparse-deconv", {"weight": 0.0}),
        ("sparse-deconv", {"kernel_size": 19}),
        ("fast-deconv", {"exponent": 1.0}),
        ("perrone", {"kernel_size": 8}),
        ("perrone", {"final": "none"}),
        ("perrone", {"iterations": 0}),
        ("sun", {"edges": 0.0}),
        ("sun", {"wrong": 1}),
        ("michaeli", {"alpha": 1.0}),
        ("chakrabarti", {"stride": 0}),
        ("epll", {"noise": 0.0}),
        ("epll", {"rounds": 0}),
        ("epll", {"kernel_size": 19}),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(BlurfaceError, match=next(iter(options))):
        create_restorer(name, **options)


@pytest.mark.parametrize("name", BLIND)
def test_an_argument_of_no_use_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name!r} cannot be built from 'abc'") as caught:
        create_restorer(f"{name}:abc")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(InputError, match="kernel_size=None"):
        create_restorer(name, kernel_size=None)
    with pytest.raises(InputError, match="A kernel_size of 4") as own:
        create_restorer(name, kernel_size=4)
    assert own.value.__cause__ is None  # an error made for the user goes through as it is


@pytest.mark.parametrize("name", BLIND)
def test_blind_restorers_on_unusable_pictures(name: str) -> None:
    restorer = create_restorer(name, kernel_size=7, **BLIND[name])
    rng = np.random.default_rng(10)
    batch = torch.zeros((4, 3, 24, 22))
    batch[1] = torch.tensor([0.2, 0.5, 0.7])[:, None, None]  # flat
    batch[2] = torch.from_numpy(rng.random((3, 24, 22)))
    batch[3] = 1
    restored, kernels = restorer.restore(batch, return_kernel=True)
    assert torch.equal(restored[[0, 1, 3]], batch[[0, 1, 3]])
    assert torch.equal(kernels[0], core.delta_kernels(1, 7, kernels)[0])
    assert torch.isfinite(restored).all()
    assert restored.min() >= 0
    assert restored.max() <= 1
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(4))
    assert (kernels >= 0).all()
    with pytest.raises(InputError, match="larger than"):
        create_restorer(name, kernel_size=27).restore(batch)
    with pytest.raises(InputError, match="NaN"):
        restorer.restore(batch + float("nan"))
    alone, kernel = restorer.restore(batch[2:3], return_kernel=True)
    torch.testing.assert_close(kernel[0], kernels[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone[0], restored[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BLIND)
def test_the_smallest_picture_for_a_kernel_works(name: str) -> None:
    batch = torch.from_numpy(np.random.default_rng(11).random((1, 3, 14, 14))).float()
    restorer = create_restorer(name, kernel_size=7, **BLIND[name])
    assert torch.isfinite(restorer.restore(batch)).all()
    with pytest.raises(InputError, match="14x13"):
        restorer.restore(batch[..., :13])


@pytest.mark.parametrize("name", ["levin", "sun", "michaeli"])
def test_grey_unless_asked(name: str) -> None:
    batch = torch.rand((1, 3, 24, 24), generator=torch.Generator().manual_seed(1))
    grey = create_restorer(name, kernel_size=5, **BLIND[name]).restore(batch)
    colour = create_restorer(name, kernel_size=5, colour=True, **BLIND[name]).restore(batch)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert not torch.equal(colour[:, 0], colour[:, 2])


@pytest.mark.parametrize("name", NONBLIND)
def test_nonblind_restorers_check_their_kernels(name: str) -> None:
    restorer = create_restorer(name)
    batch = torch.rand((2, 3, 20, 20), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="true kernels"):
        restorer.restore(batch)
    for wrong in (torch.ones(1, 4, 4), torch.ones(3, 5, 5), -torch.ones(1, 5, 5), torch.zeros(1, 5, 5)):
        with pytest.raises(InputError):
            restorer.restore(batch, kernels=wrong)
    with pytest.raises(InputError, match="larger than"):
        restorer.restore(batch, kernels=torch.ones(1, 21, 21))
    with pytest.raises(InputError, match="no kernel estimate"):
        restorer.restore(batch, kernels=torch.ones(1, 3, 3), return_kernel=True)
    flat = torch.full((1, 3, 20, 20), 0.5)
    assert torch.equal(restorer.restore(flat, kernels=torch.ones(1, 3, 3)), flat)


def test_epll_needs_room_for_a_patch() -> None:
    with pytest.raises(InputError, match="8x8"):
        create_restorer("epll").restore(torch.rand(1, 3, 5, 5), kernels=torch.ones(1, 3, 3))
