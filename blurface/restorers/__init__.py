"""Restorers: everything that turns a blurry face into a sharper one, behind one protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..registry import Registry

if TYPE_CHECKING:
    from .base import Restorer

restorers: Registry[Restorer] = Registry("restorer", "blurface.restorers")

_HERE = "blurface.restorers"
_CLASSICAL = f"{_HERE}.classical"
for _name, _target, _summary, _source in (
    ("none", f"{_HERE}.identity:Identity", "the blurry face as it is", "control"),
    ("fast", f"{_HERE}.network:Fast", "default network, blur model inside, one pass", "blurface"),
    ("plain", f"{_HERE}.network:Plain", "1 GFLOP U-Net without the blur model: a control", "blurface"),
    ("deepdeblur", f"{_HERE}.network:DeepDeblur", "the paper's network", "Wang, Li, Wang: section 3.3"),
    ("wiener", f"{_HERE}.oracle:Wiener", "oracle: Wiener filter", "scikit-image"),
    ("richardson-lucy", f"{_HERE}.oracle:RichardsonLucy", "oracle: Richardson-Lucy", "scikit-image"),
    ("gated", f"{_HERE}.gated:Gated", "another restorer behind its gate: gated:fast", "blurface"),
    ("exported", "blurface.exported:exported", "a file of blurface export: exported:PATH", "blurface"),
    ("krishnan", f"{_CLASSICAL}.krishnan:Krishnan", "normalised sparsity", "Krishnan et al. 2011"),
    ("levin", f"{_CLASSICAL}.levin:Levin", "efficient marginal likelihood", "Levin et al. 2011"),
    ("pan", f"{_CLASSICAL}.pan:Pan", "L0 intensity and gradient prior", "Pan et al. 2014"),
    ("perrone", f"{_CLASSICAL}.perrone:Perrone", "total variation", "Perrone & Favaro 2014"),
    ("sun", f"{_CLASSICAL}.sun:Sun", "edge-based patch priors", "Sun et al. 2013"),
    ("michaeli", f"{_CLASSICAL}.michaeli:Michaeli", "internal patch recurrence", "Michaeli & Irani 2014"),
    ("chakrabarti", f"{_CLASSICAL}.chakrabarti:Chakrabarti", "neural deconvolution", "Chakrabarti 2016"),
    ("sparse-deconv", f"{_CLASSICAL}.nonblind:SparseDeconv", "oracle: 0.8-norm prior", "Levin et al. 2007"),
    ("fast-deconv", f"{_CLASSICAL}.nonblind:FastDeconv", "oracle: hyper-Laplacian", "Krishnan & Fergus 2009"),
    ("epll", f"{_CLASSICAL}.epll:Epll", "oracle: patch mixture prior", "Zoran & Weiss 2011"),
):
    restorers.register(_name, _target, summary=_summary, source=_source)


def create_restorer(name: str, **options: Any) -> Restorer:
    """Build the restorer called ``name``.

    Parameters
    ----------
    name : str
        One of :func:`list_restorers`.
    **options
        Passed to its class, e.g. ``kernel_size=19`` or ``device="cuda"``.

    Raises
    ------
    UnknownNameError
        If no restorer has this name.
    """
    return restorers.create(name, **options)


def list_restorers() -> list[str]:
    """Names of all restorers, third parties' included."""
    return list(restorers)
