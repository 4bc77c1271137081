"""``fast``: one pass with the blur model inside.

The network alternates two small learned parts with two closed-form ones, all differentiable:

1. a *pass* (a U-Net at a quarter of the resolution) turns the blurry face and its current
   deconvolutions into a sharper estimate with its edges;
2. the *quotient*: the least-squares kernel between those edges and the gradients of the blurry
   face, one division in the Fourier domain;
3. a *kernel net* cleans the quotient into a kernel (a distribution over 44 x 44 offsets);
4. a *Wiener layer* deconvolves the blurry face with that kernel under two learned regularisers.

The first pass sees the blurry face only. Steps 2 to 4 and a second pass then run ``loops`` times, with
shared weights or, in the first ``stages`` loops, weights of their own: each time a better sharp estimate
makes a better kernel. The passes also see a deconvolution with the kernel turned by 180 degrees, since the
gradients' power spectrum alone cannot tell a kernel from its turn. A blurry picture does not say where its
kernel lies; by convention (section 3.1) its centre of mass is in the middle, and what an estimate lacks
there is made up for before the Wiener layer. Nothing is iterated to convergence and nothing is tuned at run
time.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .fourier import (
    FastTransforms,
    MatrixTransforms,
    PhaseTables,
    Spectrum,
    Transforms,
    gradient_energy,
    phase_ramp,
    phase_tables,
)
from .packed import PackedConvolution, pack_convolutions, packed

WINDOW = 44
"""Side of the square of kernel offsets, -22 .. 21."""

EXTENSION = 32
"""Pixels by which the picture is continued so that its opposite borders meet smoothly."""


class Estimate(NamedTuple):
    """What the network makes of a batch, stage by stage (for losses and for looking).

    Attributes
    ----------
    images : list of Tensor
        Sharp estimates (N, 3, H, W), the result last.
    kernels : list of Tensor
        Kernel estimates (N, 1, 44, 44): offsets -22 .. 21, unit sum.
    deconvolved : list of Tensor
        Wiener images (N, 6, H, W): two regularisers x RGB, one a kernel.
    logits : list of Tensor
        Logarithms of the kernels, up to a constant.
    """

    images: list[Tensor]
    kernels: list[Tensor]
    deconvolved: list[Tensor]
    logits: list[Tensor]


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), the second convolution zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first: nn.Module = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

        self.rectify: nn.Module = nn.ReLU(inplace=True)

    def prepare(self, dtype: torch.dtype) -> None:
        """Make inference on CPUs in this type faster, where packed convolutions serve."""
        self.first = packed(self.first, dtype, slope=0)
        if isinstance(self.first, PackedConvolution):
            self.rectify = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y: Tensor = self.second(self.rectify(self.first(functional.relu(x))))
        return x + y


def make_ready(network: nn.Module, dtype: torch.dtype) -> None:
    """Pack every convolution of a network for inference on CPUs, in residual blocks with the ReLU."""
    for part in list(network.modules()):
        if isinstance(part, Residual):
            part.prepare(dtype)
    pack_convolutions(network, dtype)


class UNet(nn.Module):
    """Two scales: residual blocks at the input's, and at half of it."""

    def __init__(self, width: int, deep: int, before: int, below: int, after: int) -> None:
        super().__init__()
        self.before = nn.Sequential(*(Residual(width) for _ in range(before)))
        self.down = nn.Conv2d(width, deep, 2, stride=2)
        self.below = nn.Sequential(*(Residual(deep) for _ in range(below)))
        self.up = nn.Conv2d(deep, 4 * width, 1)
        self.after = nn.Sequential(*(Residual(width) for _ in range(after)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (N, width, h, w) and the deep ones (N, deep, h / 2, w / 2).

        ``context`` (N, deep, 1, 1) is added at the deep scale.
        """
        skip = self.before(x)
        deep = self.down(skip)
        if context is not None:
            deep = deep + context
        deep = self.below(deep)
        return self.after(skip + functional.pixel_shuffle(self.up(functional.relu(deep)), 2)), deep


class Pass(nn.Module):
    """Blurry face, deconvolutions and memory in; sharp estimate, edges and memory out."""

    CHANNELS = 7
    """Per pixel: RGB residual, gate, edge mask, two edge maps."""

    def __init__(self, images: int, memory: int, width: int, deep: int, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.entry = nn.Conv2d(images, width, 4, stride=4)
        self.memory = nn.Conv2d(memory, width, 1) if memory else None
        self.net = UNet(width, deep, *blocks)
        self.head = nn.Conv2d(width, 16 * self.CHANNELS, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Per-pixel outputs (N, 7, H, W) and features (N, width, H / 4, W / 4)."""
        x = self.entry(images)
        if self.memory is not None and memory is not None:
            x = x + self.memory(functional.relu(memory))
        features, _ = self.net(x)
        return functional.pixel_shuffle(self.head(functional.relu(features)), 4), features


class KernelNet(nn.Module):
    """Quotients and autocorrelations in, a kernel out."""

    def __init__(self, maps: int, memory: int, width: int, deep: int, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        self.entry = nn.Conv2d(4 * maps, width, 3, padding=1)
        self.context = nn.Linear(memory, deep)
        self.net = UNet(width, deep, *blocks)
        self.head = nn.Conv2d(width, 4, 3, padding=1)
        self.factors = nn.Linear(deep, 2)
        nn.init.zeros_(self.factors.weight)
        nn.init.zeros_(self.factors.bias)

    def forward(self, maps: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 1, 44, 44) and two log factors (N, 2) for the Wiener regularisers."""
        context = self.context(memory.mean((2, 3)))[:, :, None, None]
        features, deep = self.net(self.entry(functional.pixel_unshuffle(maps, 2)), context)
        logits = functional.pixel_shuffle(self.head(functional.relu(features)), 2)
        return logits, self.factors(functional.relu(deep).mean((2, 3)))


class Stage(nn.Module):
    """Copies of a kernel net and a pass: a later loop's own."""

    def __init__(self, kernel: KernelNet, loop: Pass) -> None:
        super().__init__()
        self.kernel = copy.deepcopy(kernel)
        self.loop = copy.deepcopy(loop)


class FastNet(nn.Module):
    """The default network.

    Parameters
    ----------
    width, deep : int
        Channels at a quarter and an eighth of the resolution.
    kernel_width, kernel_deep : int
        Channels of the kernel nets at 22 x 22 and 11 x 11.
    kernel_blocks : three ints
        Residual blocks of the kernel nets at 22 x 22, at 11 x 11 and at 22 x 22 again.
    loops : int
        How often the kernel is estimated and the face restored with it.
    stages : int
        The first so many loops have weights of their own; those beyond share the last one's.
    centring : float
        Share of the way from an estimated kernel's centre of mass to the middle by which it is moved;
        [0, 1].
    reblurred : int
        In the loops of so many last stages, continue the blurry picture beyond its borders as the current
        estimate, blurred with the current kernel, goes on; in those before by a ramp alone.
    matrix_fourier : bool
        Transforms as matrix products (for export) instead of FFTs.

    Notes
    -----
    ``forward`` takes (N, 3, H, W) RGB in [0, 1], any H and W, and returns the same; sizes that are
    no multiple of 8 are continued by their edge and cut again.
    """

    luma: Tensor

    def __init__(
        self,
        width: int = 64,
        deep: int = 128,
        kernel_width: int = 48,
        kernel_deep: int = 96,
        kernel_blocks: Sequence[int] = (1, 2, 1),
        loops: int = 2,
        stages: int = 1,
        centring: float = 0.0,
        reblurred: int = 0,
        matrix_fourier: bool = False,
    ) -> None:
        super().__init__()
        before, below, after = kernel_blocks
        self.loops = loops
        self.centring = centring
        self.reblurred = int(reblurred)  # a word in a file's options is refused where it is loaded
        self.matrix_fourier = matrix_fourier
        self.first = Pass(3, 0, width, deep, (1, 2, 1))
        self.loop = Pass(3 + 6 + 1, width, width, deep, (1, 3, 1))
        self.kernel = KernelNet(5, width, kernel_width, kernel_deep, (before, below, after))
        self.later = nn.ModuleList(Stage(self.kernel, self.loop) for _ in range(stages - 1))
        # log of (gradient, constant) regularisers of the two Wiener images
        self.wiener = nn.Parameter(torch.tensor([[-5.5, -7.0], [-3.5, -6.0]], dtype=torch.float32))
        # log of the quotients' regularisers, relative to the mean power of the edges
        self.quotient = nn.Parameter(torch.tensor([-3.0, 0.0], dtype=torch.float32))
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32)
        self.register_buffer("luma", luma.view(1, 3, 1, 1), persistent=False)

    def prepare(self, dtype: torch.dtype = torch.float32) -> None:
        """Make inference on CPUs in this type faster; called once when the weights are final.

        There are no gradients afterwards, and the state dictionary is another.
        """
        make_ready(self, dtype)

    def forward(
        self,
        x: Tensor,
        return_kernel: bool = False,
        settled: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore a batch.

        Parameters
        ----------
        x : Tensor
            (N, 3, H, W) in [0, 1].
        return_kernel : bool
            Also return the kernel estimates (N, 43, 43), unit sum, convolution convention.
        settled : callable, optional
            Takes the first estimates of the kernels (N, 43, 43), before any loop; what it says True of (N,)
            comes back as it came, with this estimate, and saves the loops.
        """
        look = self._look(_whole_eighths(x))
        rows: Tensor | None = None
        if settled is not None:
            first = self._as_seen(look.kernel())
            rows = torch.nonzero(~settled(first))[:, 0]
            if len(rows) == len(x):
                rows = None
            else:
                look = look.chosen(rows)
        if rows is not None and len(rows) == 0:
            return (x, first) if return_kernel else x
        estimate = self._restored(look)
        restored = _cut_to(estimate.images[-1] + 0.5, x)
        if rows is not None:
            restored = x.to(restored.dtype).index_copy(0, rows, restored)
        if not return_kernel:
            return restored
        kernel = self._as_seen(estimate.kernels[-1])
        return restored, kernel if rows is None else first.index_copy(0, rows, kernel)

    def _as_seen(self, kernel: Tensor) -> Tensor:
        """Kernels (N, 1, 44, 44) as they are used and returned: moved to the middle, (N, 43, 43)."""
        if self.centring:
            kernel = _moved(kernel, -self.centring * centre_of_mass(kernel))
        kernel = kernel[:, 0, 1:, 1:]
        return kernel / kernel.sum((1, 2), keepdim=True)

    def estimate(
        self,
        blurry: Tensor,
        kernel: Tensor | None = None,
        blend: Tensor | None = None,
        loops: int | None = None,
    ) -> Estimate:
        """All intermediate results.

        Parameters
        ----------
        blurry : Tensor
            (N, 3, H, W) in [0, 1].
        kernel : Tensor, optional
            True kernels (N, 1, 44, 44) for teacher forcing.
        blend : Tensor, optional
            Share (N, 1, 1, 1) of the true kernel in what the Wiener layers use.
        loops : int, optional
            Instead of the network's own number.
        """
        result = self._restored(self._look(_whole_eighths(blurry)), kernel, blend, loops)
        return result._replace(
            images=[_cut_to(image + 0.5, blurry) for image in result.images],
            deconvolved=[_cut_to(image + 0.5, blurry) for image in result.deconvolved],
        )

    def _look(self, y: Tensor) -> _Look:
        """The first pass and the first estimate of the kernels."""
        problem = _Problem(y.float() - 0.5, self.luma, self.matrix_fourier)
        outputs, memory = self.first(problem.y, None)
        residual, _, edges = _apart(outputs)
        image = problem.y + residual
        return _Look(problem, image, memory, *self._kernel(self.kernel, problem, image, edges, memory, None))

    def _kernel(
        self,
        net: KernelNet,
        problem: _Problem,
        image: Tensor,
        edges: Tensor,
        memory: Tensor,
        before: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Logarithms of the kernels and log factors for the Wiener regularisers."""
        maps = problem.kernel_maps(image, edges, self.quotient)
        known = torch.zeros_like(maps[:, :1]) if before is None else WINDOW * before
        logits, factors = net(torch.cat([maps, known], 1), memory)
        return logits.float(), factors.float()

    def _restored(
        self,
        look: _Look,
        kernel: Tensor | None = None,
        blend: Tensor | None = None,
        loops: int | None = None,
    ) -> Estimate:
        """The loops, from the first estimate of the kernels on; its pictures are less 0.5, in [-0.5, 0.5]."""
        problem, image, memory, logits, factors = look
        y = problem.y
        result = Estimate([image], [], [], [])
        # The first stage is the network's own kernel net and pass.
        stages = cast("list[Stage]", [self, *self.later])
        numbers = [min(i, len(stages) - 1) for i in range(self.loops if loops is None else loops)]
        for number, following in zip_longest(numbers, numbers[1:]):
            estimate = _distribution(logits)
            result.logits.append(logits)
            result.kernels.append(estimate)
            used = estimate if kernel is None or blend is None else estimate + blend * (kernel - estimate)
            # A true kernel lies where it should.
            own = self.centring if blend is None else self.centring * (1 - blend[:, :, 0, 0])
            off_centre = own * centre_of_mass(estimate) if self.centring else None
            sharp, turned = problem.deconvolve(
                used,
                self.wiener[None] + factors[:, None, :],
                off_centre,
                image if number >= len(stages) - self.reblurred else None,
            )
            result.deconvolved.append(sharp)
            outputs, memory = stages[number].loop(torch.cat([y, sharp, turned], 1), memory)
            residual, gate, edges = _apart(outputs)
            image = y + torch.sigmoid(gate) * (sharp[:, :3] - y) + residual
            result.images.append(image)
            if following is not None:
                net = stages[following].kernel
                logits, factors = self._kernel(net, problem, image, edges, memory, estimate)
        return result


def grow_state(state: Mapping[str, Tensor], network: FastNet) -> dict[str, Tensor]:
    """A smaller :class:`FastNet`'s state completed for a larger one, which then does the same.

    Parameters
    ----------
    state : mapping
        State dictionary of a network with fewer stages, or with fewer blocks in its kernel nets.
    network : FastNet
        The larger network as it was made: its last convolutions of residual blocks are zero.

    Returns
    -------
    dict
        The last stage serves those beyond; additional residual blocks are the network's own.
    """
    complete = dict(state)
    known = len({key.split(".")[1] for key in state if key.startswith("later.")})
    for index in range(known, len(network.later)):
        for part in ("kernel", "loop"):
            source = f"later.{index - 1}.{part}." if index else f"{part}."
            for key in [key for key in complete if key.startswith(source)]:
                complete[f"later.{index}.{part}.{key[len(source) :]}"] = complete[key]
    for key, value in network.state_dict().items():
        if re.search(r"kernel\.net\.(before|below|after)\.\d+\.", key):
            complete.setdefault(key, value)
    return complete


class _Look(NamedTuple):
    """Blurry pictures after the first pass, with what the kernel net makes of it."""

    problem: _Problem
    image: Tensor
    memory: Tensor
    logits: Tensor
    factors: Tensor

    def kernel(self) -> Tensor:
        """The first estimate (N, 1, 44, 44)."""
        return _distribution(self.logits)

    def chosen(self, rows: Tensor) -> _Look:
        """Some of the pictures."""
        return _Look(self.problem.chosen(rows), *(part[rows] for part in self[1:]))


class _Grid(NamedTuple):
    """What the closed-form steps need that depends on the size alone.

    Attributes
    ----------
    transforms : Transforms
        Of a picture ("picture"), of one continued ("whole") and of a kernel ("window").
    energy : Tensor
        Power of the two first differences on the half spectrum.
    phases : PhaseTables
        To move offset 0 of a kernel to the origin.
    forth : Spectrum
        Moves the origin to offset 0.
    ramps : tuple of Tensor
        Rising from 0 to 1 over the continuation, down (rows, 1) and across (columns,).
    """

    transforms: Transforms
    energy: Tensor
    phases: PhaseTables
    forth: Spectrum
    ramps: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, shape: tuple[int, int], size: tuple[int, int], device: torch.device, matrix: bool) -> _Grid:
        """For pictures of ``shape`` (H, W) continued to ``size``."""
        extents = {"picture": shape, "whole": size, "window": (WINDOW, WINDOW)}
        transforms = (MatrixTransforms if matrix else FastTransforms)(size, device, extents)
        phases = phase_tables(transforms, WINDOW // 2)
        forth = phase_ramp(transforms, phases).conj()
        down, across = (_ramp(total - length, device) for length, total in zip(shape, size, strict=True))
        return cls(transforms, gradient_energy(transforms), phases, forth, (down[:, None], across))


@lru_cache(maxsize=16)
def _kept_grid(shape: tuple[int, int], size: tuple[int, int], device: torch.device) -> _Grid:
    # Normal tensors, whoever asks first: those of inference mode would be of no use to training.
    with torch.inference_mode(False):
        return _Grid.of(shape, size, device, matrix=False)


def _ramp(steps: int, device: torch.device) -> Tensor:
    """Half a cosine from 0 to 1."""
    places = (torch.arange(steps, device=device, dtype=torch.float32) + 0.5) / steps
    return 0.5 - 0.5 * torch.cos(torch.pi * places)


class _Problem:
    """The blurry picture less 0.5, its spectra, and the two closed-form steps on them, in float32."""

    def __init__(self, y: Tensor, luma: Tensor, matrix: bool) -> None:
        self.y, self.luma = y, luma
        height, width = y.shape[-2:]
        # multiples of 16: sizes with small factors, even in both directions
        size = (height + EXTENSION + -height % 16, width + EXTENSION + -width % 16)
        # In a recorded graph the size is a value of the graph, and the tensors are none: nothing can be kept.
        recorded = matrix or torch.compiler.is_compiling() or type(y) is not Tensor
        self.grid = (
            _Grid.of((height, width), size, y.device, matrix)
            if recorded
            else _kept_grid((height, width), size, y.device)
        )
        self.transforms = self.grid.transforms
        grey = (y * luma).sum(1, keepdim=True)
        every = self.transforms.forward(_continue(torch.cat([y, grey], 1), self.grid.ramps), "whole")
        self.blurry, self.grey = every.each(lambda part: part[:, :3]), every.each(lambda part: part[:, 3:])
        self.gradients = self.transforms.forward(_gradients(grey), "picture")
        power = self.gradients.power().sum(1, keepdim=True)
        # The autocorrelation and the cepstrum of the gradients: what |K|^2 looks like through a face.
        log_power = torch.log(power + 1e-3 * power.mean((2, 3), keepdim=True) + 1e-8)
        both = torch.cat([power, log_power - log_power.mean((2, 3), keepdim=True)], 1)
        self.correlations = _unit_scale(self.transforms.inverse(self.grid.forth.scaled(both), "window"))

    def chosen(self, rows: Tensor) -> _Problem:
        """Some of the pictures, with what was computed of them."""
        part = copy.copy(self)
        part.y, part.correlations = self.y[rows], self.correlations[rows]
        part.blurry, part.grey, part.gradients = (
            spectrum.each(lambda stored: stored[rows])
            for spectrum in (self.blurry, self.grey, self.gradients)
        )
        return part

    def kernel_maps(self, image: Tensor, edges: Tensor, regulariser: Tensor) -> Tensor:
        """Two quotients, autocorrelation and cepstrum (N, 4, 44, 44), each of unit RMS."""
        mask, more = edges.split_with_sizes((1, 2), 1)
        sharp = torch.sigmoid(mask) * _gradients((image * self.luma).sum(1, keepdim=True)) + more
        predicted = self.transforms.forward(sharp, "picture")
        numerator = predicted.conj_times(self.gradients).each(lambda part: part.sum(1, keepdim=True))
        power = predicted.power().sum(1, keepdim=True)
        inverse = 1 / (
            power + regulariser.exp()[None, :, None, None] * (power.mean((2, 3), keepdim=True) + 1e-6)
        )
        quotient = self.transforms.inverse(self.grid.forth.times(numerator).scaled(inverse), "window")
        return torch.cat([_unit_scale(quotient), self.correlations], 1)

    def deconvolve(
        self,
        kernel: Tensor,
        log_regularisers: Tensor,
        off_centre: Tensor | None,
        estimate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Wiener images under two regularisers (N, 6, H, W); a grey one with the turned kernel.

        ``off_centre`` (N, 2): by so many rows and columns the kernel is moved back, exactly.
        ``estimate`` (N, 3, H, W): sharp, to continue the blurry picture by. All pictures are less 0.5.
        """
        # offsets start at -22: the ramp brings offset 0 to the origin
        ramp = phase_ramp(self.transforms, self.grid.phases, off_centre)
        transfer = ramp.times(self.transforms.forward(kernel, "window"))
        weights = log_regularisers.exp()[:, :, :, None, None]
        inverse = 1 / (transfer.power() + weights[:, :, 0] * self.grid.energy + weights[:, :, 1])
        blurry = self.blurry if estimate is None else self._continued(estimate, transfer)
        # (N, 2, 1, ...) by (N, 1, 3, ...)
        filters = transfer.conj().scaled(inverse).each(lambda part: part[:, :, None])
        straight = filters.times(blurry.each(lambda part: part[:, None]))
        turned = transfer.scaled(inverse[:, 1:]).times(self.grey)
        images = self.transforms.inverse(
            straight.each(lambda part: part.flatten(1, 2)).joined(turned), "picture"
        )
        sharp, grey = images.split_with_sizes((6, 1), 1)
        return sharp, grey

    def _continued(self, estimate: Tensor, transfer: Spectrum) -> Spectrum:
        """Spectrum of the blurry picture, continued by a sharp estimate blurred.

        Blur carries in what lies up to half a kernel beyond the border: a guess that agrees with the kernel
        leaves the inside less to explain than a ramp does.
        """
        height, width = self.y.shape[-2:]
        sharp = self.transforms.forward(_continue(estimate, self.grid.ramps), "whole")
        outside = self.transforms.inverse(sharp.times(transfer), "whole")
        above = torch.cat([self.y, outside[..., :height, width:]], -1)
        return self.transforms.forward(torch.cat([above, outside[..., height:, :]], -2), "whole")


def _apart(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RGB residual, gate and edges of a pass; a channel in one piece costs what follows half as much."""
    whole = outputs.to(torch.float32, memory_format=torch.contiguous_format)
    residual, gate, edges = whole.split_with_sizes((3, 1, 3), 1)
    return residual, gate, edges


def _whole_eighths(image: Tensor) -> Tensor:
    """A picture continued by its edge to sizes that are multiples of 8."""
    below, right = -image.shape[-2] % 8, -image.shape[-1] % 8
    return functional.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


def _cut_to(image: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    return image if image.shape[-2:] == (height, width) else image[..., :height, :width]


def _distribution(logits: Tensor) -> Tensor:
    return functional.softmax(logits.flatten(1), 1).view_as(logits)


def centre_of_mass(kernels: Tensor) -> Tensor:
    """Rows and columns (N, 2) from offset 0 to the centre of mass of kernels (N, 1, 44, 44) of unit sum."""
    offsets = torch.arange(WINDOW, device=kernels.device, dtype=kernels.dtype) - WINDOW // 2
    sides = torch.stack([kernels.sum(3), kernels.sum(2)], -1)
    return (sides * offsets[:, None]).sum((1, 2))


def _moved(kernels: Tensor, by: Tensor) -> Tensor:
    """Kernels (N, 1, 44, 44) moved by rows and columns (N, 2), bilinearly, which keeps them non-negative."""
    position = torch.arange(WINDOW, device=kernels.device, dtype=kernels.dtype)
    # A row of weights for each place: 1 - |distance| to where it comes from.
    rows, columns = (
        (1 - (position[:, None] - position - by[:, axis, None, None]).abs()).clamp_min(0) for axis in (0, 1)
    )
    # Not matrix products, which a caller's autocast would round.
    down = (rows[..., None] * kernels).sum(2)
    return (down[:, :, None] * columns[:, None]).sum(3)[:, None]


def _gradients(grey: Tensor) -> Tensor:
    """Forward differences down and across (N, 2, H, W); zero at the last row and column."""
    more = functional.pad(grey, (0, 1, 0, 1), mode="replicate")
    return torch.cat([more[..., 1:, :-1], more[..., :-1, 1:]], 1) - grey


def _continue(image: Tensor, ramps: tuple[Tensor, Tensor]) -> Tensor:
    """Continue a picture so that it is periodic: by a ramp from its last to its first line."""
    for dim, ramp in zip((-2, -1), ramps, strict=True):
        first, last = image.narrow(dim, 0, 1), image.narrow(dim, image.shape[dim] - 1, 1)
        image = torch.cat([image, last + ramp * (first - last)], dim)
    return image


def _unit_scale(maps: Tensor) -> Tensor:
    return maps * torch.rsqrt(maps.square().mean((2, 3), keepdim=True) + 1e-12)
