"""EPLL, Perrone, Sun, Michaeli and Chakrabarti: closed forms, what their papers state, recorded outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from classical_support import FACE, psnr, stroke
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import multivariate_normal
from skimage.data import camera

from blurface.errors import DataError, InputError, WeightsError
from blurface.restorers import create_restorer
from blurface.restorers.classical import chakrabarti, core, epll, kernel_fit, michaeli, perrone, sun


def _photo(height: int, width: int, top: int = 100, left: int = 200) -> torch.Tensor:
    return torch.from_numpy(camera()[None, top : top + height, left : left + width] / 255.0)


def _blur(sharp: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return core.ValidConvolution(kernel, (sharp.shape[-2], sharp.shape[-1])).forward(sharp)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    side = a.shape[-1] + b.shape[-1]
    spectra = [torch.fft.rfft2(k.double().reshape(k.shape[-2:]), s=(side, side)) for k in (a, b)]
    product = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=(side, side))
    return float(product.max() / (a.double().norm() * b.double().norm()))


def _mixture(components: int, seed: int = 0) -> epll.PatchMixture:
    """Random covariances of very different size, blind to the patch mean."""
    rng = np.random.default_rng(seed)
    centring = np.eye(64) - 1 / 64
    found = []
    for j in range(components):
        factor = rng.standard_normal((64, 64)) * rng.exponential(1, 64) * 0.02 * 1.2**j
        found.append(centring @ (factor @ factor.T + 1e-6 * np.eye(64)) @ centring)
    return epll.PatchMixture.from_covariances(rng.uniform(0.5, 1, components), np.stack(found))


# EPLL


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([50.0, 800.0, 3200.0]), st.integers(1, 20))
def test_components_found_by_bounds_are_the_most_likely(seed: int, beta: float, leading: int) -> None:
    mixture = _mixture(6, seed % 7)
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn((40, 64), generator=generator) * torch.rand((40, 1), generator=generator)
    patches -= patches.mean(1, keepdim=True)
    scores = np.stack(
        [
            float(mixture.log_weights[j])
            + multivariate_normal(np.zeros(64), covariance + np.eye(64) / beta).logpdf(patches.numpy())
            for j, covariance in enumerate(mixture.covariances().numpy())
        ]
    )
    chosen = mixture.assign(patches, beta, leading=leading).numpy()
    # float32 may swap components that are as likely as each other.
    assert np.all(scores.max(0) - scores[chosen, np.arange(40)] < 1e-2)


def test_a_patch_is_restored_by_the_wiener_filter_of_its_component() -> None:
    mixture, beta = _mixture(1), 200.0
    patches = torch.randn((5, 64), generator=torch.Generator().manual_seed(1))
    patches -= patches.mean(1, keepdim=True)
    covariance = mixture.covariances()[0].numpy()
    expected = np.linalg.solve(covariance + np.eye(64) / beta, covariance @ patches.numpy().T).T
    np.testing.assert_allclose(mixture.restore(patches, beta).numpy(), expected, atol=1e-5)


def test_one_round_solves_its_normal_equations() -> None:
    mixture = _mixture(2)
    kernel, picture = stroke(3), _photo(12, 11)
    chosen = epll.EpllSettings(rounds=1, taper=0, beta=300.0, noise=0.05, tolerance=1e-10)
    x = epll.epll(picture, kernel, chosen, mixture=mixture)
    # The same system with dense matrices, column by column.
    padded = core.pad_edge(picture, 1)
    units = torch.eye(14 * 13, dtype=torch.float64).view(-1, 14, 13)
    matrix = core.ValidConvolution(kernel, (14, 13)).forward(units).flatten(1).T
    count = epll._from_patches(torch.ones(7 * 6, 64), (14, 13)).double().flatten()
    weight = 64 / 0.05**2
    left = weight * matrix.T @ matrix + 300.0 * torch.diag(count)
    right = weight * matrix.T @ picture.flatten() + 300.0 * epll.patch_sum(padded, mixture, 300.0).flatten()
    expected = torch.linalg.solve(left, right).view(14, 13)[1:-1, 1:-1].clamp(0, 1)
    torch.testing.assert_close(x[0], expected, atol=1e-7, rtol=0)


def test_every_pixel_counts_its_patches() -> None:
    ones = torch.ones((13 * 9, 64))
    torch.testing.assert_close(epll._from_patches(ones, (20, 16)).double(), epll._coverage((20, 16)))
    # Patches put back where they were cut: the picture times their number.
    picture = _photo(20, 16)[0]
    again = epll._from_patches(epll._to_patches(picture), (20, 16))
    torch.testing.assert_close(again, picture * epll._coverage((20, 16)))


def test_patches_are_column_major() -> None:
    picture = torch.arange(8 * 9, dtype=torch.float64).view(8, 9)
    assert epll._to_patches(picture)[0, :3].tolist() == [0, 9, 18]


def test_epll_sharpens_a_photograph_whatever_else_is_in_the_batch() -> None:
    kernel = stroke()
    sharp = torch.cat((_photo(54, 50), _photo(54, 50, 200, 100)))
    noise = 0.01 * torch.randn((2, 48, 44), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blurry = (_blur(sharp, kernel) + noise).clamp(0, 1)
    together = epll.epll(blurry, kernel)
    for index in range(2):
        inside = core.crop(sharp[index], 3)
        assert psnr(together[index], inside) > psnr(blurry[index], inside) + 3
        alone = epll.epll(blurry[index : index + 1], kernel)
        torch.testing.assert_close(alone[0], together[index], atol=1e-6, rtol=0)


def test_noise_is_per_picture() -> None:
    blurry = _photo(40, 40).expand(2, -1, -1)
    point = core.delta_kernels(1, 3, blurry)
    both = epll.epll(blurry, point, noise=torch.tensor([0.002, 0.2]))
    low = epll.epll(blurry[:1], point, epll.EpllSettings(noise=0.002))
    torch.testing.assert_close(both[0], low[0], atol=1e-6, rtol=0)
    assert psnr(both[0], blurry[0]) > 45 > 35 > psnr(both[1], blurry[1])


def test_a_mixture_survives_the_file(tmp_path: Path) -> None:
    mixture = _mixture(3)
    mixture.save(tmp_path / "m.npz")
    again = epll.PatchMixture.load(tmp_path / "m.npz")
    scale = mixture.covariances().abs().amax((1, 2), keepdim=True)
    assert float(((again.covariances() - mixture.covariances()) / scale).abs().max()) < 2e-3
    identity = again.directions @ again.directions.mT
    torch.testing.assert_close(identity, torch.eye(64, dtype=torch.float64).expand(3, -1, -1))
    torch.testing.assert_close(again.log_weights.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_files_that_hold_no_mixture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK not an archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(
        tmp_path / "uneven.npz",
        weights=np.ones(2),
        variances=np.ones((3, 63)),
        directions=np.ones((2, 64, 63)),
    )
    np.savez(tmp_path / "flat.npz", weights=np.ones(2), variances=np.ones(2), directions=np.ones((2, 64, 63)))
    whole = (tmp_path / "uneven.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("broken.npz", "other.npz", "uneven.npz", "flat.npz", "truncated.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            epll.PatchMixture.load(tmp_path / name)
    with pytest.raises(InputError, match="64, 64"):
        epll.PatchMixture.from_covariances([1.0], np.zeros((1, 3, 3)))
    with pytest.raises(InputError, match="indefinite"):
        epll.PatchMixture.from_covariances([1.0], -np.eye(64)[None])


def test_the_packaged_mixture() -> None:
    mixture = epll.load_mixture()
    assert mixture.directions.shape == (200, 64, 64)
    assert (mixture.variances[:, :-1] > 0).all()
    assert (mixture.variances.diff(dim=1) <= 0).all()
    # Blind to the patch mean.
    assert float((mixture.directions[:, :, :-1].sum(1)).abs().max()) < 0.05
    assert epll._PACKAGED.stat().st_size < 2e6


# Perrone


def test_perrone_levels_as_published() -> None:
    found = perrone.levels(19, (111, 95), perrone.PerroneSettings())
    assert [size for size, _, _ in found] == [3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert found[0][1] == pytest.approx(0.102, abs=1e-3)
    assert perrone.levels(27, (111, 95), perrone.PerroneSettings())[0][0] == 11
    assert [shape for *_, shape in perrone.levels(13, (111, 95), perrone.PerroneSettings())] == [
        (25, 21), (41, 35), (57, 51), (75, 65), (93, 79), (111, 95)
    ]  # fmt: skip


def test_perrone_steps_follow_the_gradient_of_the_data_term() -> None:
    options = perrone.PerroneSettings(weight=1e-12)
    generator = torch.Generator().manual_seed(2)
    f = torch.rand((2, 3, 15, 13), generator=generator, dtype=torch.float64)
    u = torch.rand((2, 3, 19, 17), generator=generator, dtype=torch.float64)
    k = torch.rand((2, 5, 5), generator=generator, dtype=torch.float64)
    u_, k_ = u.clone().requires_grad_(), k.clone().requires_grad_()
    grouped = torch.nn.functional.conv2d(
        u_.flatten(0, 1)[None], k_.flip(1, 2).repeat_interleave(3, 0)[:, None], groups=6
    )
    (0.5 * (grouped.view_as(f) - f).square().sum()).backward()
    level = perrone._Level(f, (19, 17), 1e-12, options)
    spectrum, otf = core.to_frequency(u, level.fft), core.to_frequency(k, level.fft)[:, None]
    moved = level.step_k(k, spectrum, otf)
    assert k_.grad is not None
    assert u_.grad is not None
    largest = k_.grad.abs().amax((1, 2), keepdim=True)
    expected = core.project_kernels(k - 1e-3 * k.amax((1, 2), keepdim=True) * k_.grad / largest)
    torch.testing.assert_close(moved, expected)
    stepped = u.clone()
    level.step_u(stepped, spectrum, otf)
    largest = u_.grad.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(stepped, u - 5e-3 * u.amax((1, 2, 3), keepdim=True) * u_.grad / largest)


def test_perrone_smooths_where_only_total_variation_speaks() -> None:
    """With f = u * k the data term is silent: the total variation falls, step by step."""
    u = _photo(31, 33)[None]
    k = core.delta_kernels(1, 3, u)
    level = perrone._Level(core.crop(u, 1), (31, 33), 1.0, perrone.PerroneSettings(image_step=1e-4))

    def variation(x: torch.Tensor) -> float:
        down, across = x.diff(dim=-2)[..., :-1], x.diff(dim=-1)[..., :-1, :]
        return float((down**2 + across**2).sqrt().sum())

    otf = core.to_frequency(k, level.fft)[:, None]
    before = variation(u)
    for _ in range(5):
        level.step_u(u, core.to_frequency(u, level.fft), otf)
        assert variation(u) < before
        before = variation(u)


def test_perrone_finds_the_kernel_of_a_photograph() -> None:
    kernel = stroke(9)
    blurry = _blur(_photo(90, 90), kernel)[:, None]
    restored, found = perrone.perrone(blurry, 9)
    assert restored.shape == blurry.shape
    assert _correlation(found, kernel) > 0.7


@pytest.mark.parametrize("final", ["tv", "sparse"])
def test_perrone_keeps_even_and_odd_sides(final: str) -> None:
    for height, width in ((16, 18), (17, 15), (16, 15)):
        batch = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(3))
        restorer = create_restorer("perrone", kernel_size=5, iterations=2, final=final)
        assert restorer.restore(batch).shape == batch.shape


# Least squares for a kernel


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([3, 5, 7]))
def test_the_kernel_of_a_known_picture_is_recovered(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    sharp = torch.from_numpy(rng.random((2, 30, 28)))
    kernel = core.project_kernels(torch.from_numpy(rng.random((2, size, size)) - 0.4))
    blurry = _blur(sharp, kernel)
    found = kernel_fit.fit_kernels(
        kernel_fit.difference_fields(sharp, 1.0, 0.5),
        kernel_fit.difference_fields(blurry, 1.0, 0.5),
        core.delta_kernels(2, size, sharp),
        0.0,
        80,
    )
    torch.testing.assert_close(found, kernel, atol=1e-6, rtol=0)


# Sun


def test_primitives_are_normalised_and_nearest_to_themselves() -> None:
    patches = sun.primitives()
    torch.testing.assert_close(
        patches.mean(1), torch.zeros(len(patches), dtype=torch.float64), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(patches.std(1, correction=0), torch.ones(len(patches), dtype=torch.float64))
    given_ = 0.4 * patches + 0.5
    torch.testing.assert_close(sun.nearest_primitives(given_[None])[0], given_)


def test_weak_edges_get_the_contrast_of_sharp_ones() -> None:
    patches = torch.linspace(0.01, 0.05, 50, dtype=torch.float64)[None, :, None] * sun.primitives()[0] + 0.3
    targets = sun.nearest_primitives(patches)
    spread = targets.std(-1, correction=0)[0]
    assert (spread.diff() > 0).all()
    assert spread[0] == pytest.approx(sun._CONTRAST[0])
    assert spread[-1] == pytest.approx(sun._CONTRAST[-1])
    torch.testing.assert_close(targets.mean(-1), patches.mean(-1))


def test_the_patch_prior_prefers_sharp_edges_to_blurry_ones() -> None:
    """The paper's argument for the prior (section 3): patches at edges are nearer to their primitive."""
    sharp = _photo(140, 140)
    wide = torch.ones((1, 7, 7), dtype=torch.float64) / 49

    def misfit(x: torch.Tensor) -> float:
        index = sun._patch_index(sun.edge_positions(x, 300, 8), x.shape[-1])
        patches = x.flatten(1).gather(1, index).view(1, 300, 25)
        patches = patches - patches.mean(-1, keepdim=True)
        patches = patches / patches.std(-1, correction=0, keepdim=True)
        return float(1 - (patches @ sun.primitives().T).amax(-1).mean() / 25)

    assert misfit(sharp) < misfit(_blur(sharp, wide))


def test_derivative_weights_are_the_gradient_of_their_energy() -> None:
    e = torch.rand(
        (1, 9, 8), generator=torch.Generator().manual_seed(4), dtype=torch.float64
    ).requires_grad_()
    energy = torch.stack([f.square().sum() for f in kernel_fit.difference_fields(e, 1.0, 0.5)]).sum() / 2
    energy.backward()
    assert e.grad is not None
    torch.testing.assert_close(sun._weigh(e.detach(), 1.0, 0.5), e.grad)


def test_sun_finds_the_kernel_of_a_photograph() -> None:
    kernel = stroke(7)
    blurry = _blur(_photo(126, 126), kernel)
    found = sun.estimate_kernels(blurry, 9)
    point = _correlation(core.delta_kernels(1, 3, kernel), kernel)
    assert _correlation(found, kernel) > max(0.75, point + 0.1)


# Michaeli


def test_patches_recur_in_a_sharp_edge_and_sharpen_a_blurry_one() -> None:
    """The paper's cue: the reduced blurry picture is sharper, by alpha."""
    columns = torch.arange(60, dtype=torch.float64)
    ramp = ((columns - 30) / 8 + 0.5).clamp(0, 1).expand(1, 60, -1).contiguous()
    again = michaeli.recurrent_image(ramp)
    slope, sharper = (float(x[:, 20:40].diff(dim=-1).amax()) for x in (ramp, again))
    assert 1.1 < sharper / slope < 1.5
    flat = torch.full((1, 20, 20), 0.3, dtype=torch.float64)
    torch.testing.assert_close(michaeli.recurrent_image(flat), flat)


def test_michaeli_levels() -> None:
    found = michaeli._levels(27, (224, 192), michaeli.MichaeliSettings())
    assert [size for size, _ in found] == sorted({size for size, _ in found})
    assert found[-1] == (27, 1.0)
    assert found[0][0] == 5


def test_michaeli_finds_the_kernel_of_a_photograph() -> None:
    kernel = stroke(7)
    blurry = _blur(_photo(106, 106), kernel)
    found = michaeli.estimate_kernels(blurry, 9)
    point = _correlation(core.delta_kernels(1, 3, kernel), kernel)
    assert _correlation(found, kernel) > point + 0.1


# Chakrabarti


def _identity_network() -> chakrabarti.ChakrabartiNetwork:
    network = chakrabarti.ChakrabartiNetwork(first=4, second=4, joint=(4,)).requires_grad_(False)
    network.out.weight.zero_()
    network.out.bias.zero_()
    network.out.bias[: chakrabarti._FREQUENCIES] = 1
    return network


def test_bands_hold_the_coefficients_of_the_paper() -> None:
    rows = torch.arange(65, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 6 * rows / 65)[None, :, None].expand(1, 65, 65)
    found = chakrabarti.bands(wave)
    assert [band.shape[1] for band in found] == [81, 208, 208, 208]
    # Six periods over the patch lie in the second band alone (of those of the whole patch).
    assert float(found[0].abs().max()) < 1e-9
    assert float(found[1].abs().max()) == pytest.approx(65 / 2)
    energy = sum(
        2 * float(band.square().sum()) for band in chakrabarti.bands(torch.rand(1, 65, 65) - 0.5)[:2]
    )
    assert energy > 0


def test_the_network_filters_with_the_coefficients_it_puts_out() -> None:
    network = _identity_network()
    patches = torch.rand((2, 65, 65), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(network.restore(patches), patches[:, 16:-16, 16:-16], atol=1e-5, rtol=0)
    # The coefficients of a real filter: the patch is convolved with it, wrapped.
    kernel = stroke(5).float()
    otf = core.psf_to_otf(kernel, (65, 65))[0]
    packed = torch.cat((otf[:, 1:].flatten(), otf[1:33, 0]))
    network.out.bias.copy_(torch.cat((packed.real, packed.imag)))
    expected = core.circular_convolve(patches, kernel)[:, 16:-16, 16:-16]
    torch.testing.assert_close(network.restore(patches), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [1, 4])
def test_the_first_estimate_averages_patches_to_the_picture(stride: int) -> None:
    picture = _photo(72, 69)
    found = chakrabarti.first_estimate(picture, _identity_network(), stride)
    torch.testing.assert_close(found, picture[:, 16:-16, 16:-16], atol=1e-5, rtol=0)


def test_whitened_bands_are_white() -> None:
    pictures = torch.from_numpy(camera() / 255).float()
    patches = pictures.unfold(0, 65, 9).unfold(1, 65, 9).reshape(-1, 65, 65)
    network = _identity_network()
    network.set_whitening(patches, floor=0.0)
    for index, band in enumerate(chakrabarti.bands(patches.double() - 0.5)):
        white = (band - getattr(network, f"mean{index}")) / getattr(network, f"scale{index}")
        white = white @ getattr(network, f"whitening{index}").double()
        strong = white.square().mean(0)
        torch.testing.assert_close(strong, torch.ones_like(strong), atol=0.05, rtol=0)


def test_the_global_kernel_is_found_from_the_sharp_picture() -> None:
    """With all pixels the 1-norm alone stands between the estimate and the kernel; 2% lose some of it."""
    kernel = stroke(7)
    sharp = _photo(96, 96)
    blurry, inside = _blur(sharp, kernel), core.crop(sharp, 3)
    found = chakrabarti.estimate_kernels(blurry, inside, 15, chakrabarti.ChakrabartiSettings(edges=1.0))
    assert float(found.sum()) == pytest.approx(1)
    assert (found >= 0).all()
    assert _correlation(found, kernel) > 0.99
    assert _correlation(chakrabarti.estimate_kernels(blurry, inside, 15), kernel) > 0.6


def test_networks_survive_the_file_and_others_are_refused(tmp_path: Path) -> None:
    network = _identity_network()
    chakrabarti.save_network(network, tmp_path / "n.safetensors", {"why": "test"})
    again = chakrabarti.load_network(str(tmp_path / "n.safetensors"))
    patches = torch.rand((1, 65, 65), generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(again(patches), network(patches))
    (tmp_path / "broken.safetensors").write_bytes(b"12345678{}")
    for name in ("broken.safetensors", "missing.safetensors"):
        with pytest.raises(WeightsError, match=name):
            chakrabarti.load_network(str(tmp_path / name))


def test_the_packaged_network_restores_patches_it_never_saw() -> None:
    network = chakrabarti.load_network()
    assert chakrabarti._PACKAGED.stat().st_size < 8e6
    gains = []
    for size in (9, 13, 17):
        kernel = torch.nn.functional.pad(stroke(size), (1, 1, 1, 1))
        edge = size // 2 + 1
        for left in (60, 200, 320):
            sharp = _photo(110, 110, 90, left)
            blurry = _blur(sharp, kernel)
            generator = torch.Generator().manual_seed(0)
            blurry = blurry + 0.01 * torch.randn(blurry.shape, generator=generator)
            restored = chakrabarti.first_estimate(blurry, network, stride=5)
            inside = core.crop(core.crop(sharp, edge), 16)
            gains.append(psnr(restored, inside) - psnr(core.crop(blurry, 16), inside))
    assert np.mean(gains) > 0.15  # 0.30 dB: the network is small and knows faces


def test_chakrabarti_needs_room_for_patch_and_kernel() -> None:
    restorer = chakrabarti.Chakrabarti(kernel_size=27)
    assert restorer.parameters() > 1e6
    with pytest.raises(InputError, match="68x69"):
        restorer.restore(torch.rand(1, 3, 68, 69))
    picture = torch.rand((1, 3, 69, 69), generator=torch.Generator().manual_seed(7))
    quick = chakrabarti.Chakrabarti(kernel_size=21, stride=4)
    restored, kernels = quick.restore(picture, return_kernel=True)
    assert torch.equal(restored[:, 0], restored[:, 2])
    assert float(kernels.sum()) == pytest.approx(1, abs=1e-5)


# The authors' own outputs


def _read(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path), dtype=np.float64) / 255)


@pytest.mark.real
@pytest.mark.parametrize("number", [1, 4])
def test_epll_meets_its_authors(reference: Path, number: int) -> None:
    """Their program, with the mixture that it was run with; it cannot say anything of the packaged one."""
    blurry = _read(reference / "inputs" / f"blurry_{FACE}_k{number}.png").permute(2, 0, 1)
    kernel = torch.from_numpy(np.load(reference / "inputs" / "kernels.npz")[f"k{number}"])
    restorer = create_restorer("epll", prior=str(reference / "epll_prior.npz"), colour=False)
    ours = restorer.restore(blurry[None].float(), kernels=kernel)
    assert isinstance(ours, torch.Tensor)
    theirs = _read(reference / "nonblind_epll" / f"restored_{FACE}_k{number}.png")
    assert float(((ours[0, 0] * 255).round() - theirs * 255).abs().max()) <= 1.01


@pytest.mark.real
def test_perrone_meets_its_authors(reference: Path) -> None:
    """Tolerances as far as rounding grows: 3e-2 of the kernel's peak, half a grey level on average."""
    blurry = _read(reference / "inputs" / f"blurry_{FACE}_k5.png").permute(2, 0, 1)[None]
    trace: list[perrone.PerroneLevel] = []
    restored, found = perrone.perrone(blurry, 13, trace=trace)
    theirs = np.load(reference / "perrone" / f"kernel_{FACE}_k5.npy")
    assert np.abs(found[0].numpy() - theirs).max() < 3e-2 * theirs.max()
    picture = (restored[0].permute(1, 2, 0)[:111, :95].clamp(0, 1) * 255).round()
    expected = _read(reference / "perrone" / f"restored_{FACE}_k5.png") * 255
    assert float((picture - expected).abs().mean()) < 0.5
    recorded = np.load(reference / "trace" / f"perrone_{FACE}_k5.npz")
    for index, level in enumerate(trace[:-1]):
        other = recorded[f"level{index}_kernel"]
        assert np.abs(level.kernels[0].numpy() - other).max() < 5e-3 * other.max()
        image = level.u[0].permute(1, 2, 0).numpy() - recorded[f"level{index}_image"]
        assert np.abs(image).mean() * 255 < 0.5
