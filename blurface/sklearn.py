"""The stage as a scikit-learn transformer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .errors import InputError
from .packets import ChannelOrder, ValueRange
from .stage import DeblurStage

if TYPE_CHECKING:
    from sklearn.utils import Tags


class DeblurTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Restore blurred faces in a :class:`sklearn.pipeline.Pipeline`.

    Parameters
    ----------
    stage : str or DeblurStage
        A restorer's name, for :meth:`DeblurStage.from_pretrained`, or a stage.
    shape : tuple of int or None
        Of the pictures in the rows of a two-dimensional ``X``: (height, width) for grey ones,
        (height, width, channels) else. None: each row is a grey picture of one line. Arrays
        (N, H, W) and (N, H, W, C) say their shape themselves.
    value_range : (black, white), "fit" or None
        What black and white are in floats; default (0, 1). ``"fit"`` takes the least and the
        largest value of the training data; later values beyond them are clipped.
    channel_order : {"rgb", "bgr"}
    gate : bool
        Leave sharp pictures as they are. A stage that is given keeps the gate that it has, or loses it.
    device, backend : str
        See :meth:`DeblurStage.from_pretrained`.

    Attributes
    ----------
    stage_ : DeblurStage
    value_range_ : (black, white) or None
    n_features_in_ : int
        Values in a picture.

    Examples
    --------
    >>> import numpy as np
    >>> from blurface.sklearn import DeblurTransformer
    >>> DeblurTransformer("none", shape=(8, 8)).fit_transform(np.zeros((2, 64))).shape
    (2, 64)
    """

    def __init__(
        self,
        stage: str | DeblurStage = "fast",
        *,
        shape: tuple[int, ...] | None = (112, 96, 3),
        value_range: ValueRange | Literal["fit"] | None = None,
        channel_order: ChannelOrder = "rgb",
        gate: bool = True,
        device: str = "auto",
        backend: str = "torch",
    ) -> None:
        self.stage = stage
        self.shape = shape
        self.value_range = value_range
        self.channel_order = channel_order
        self.gate = gate
        self.device = device
        self.backend = backend

    def fit(self, X: ArrayLike, y: Any = None) -> DeblurTransformer:
        """Load the network; learn the range where ``value_range="fit"``.

        Parameters
        ----------
        X : array_like
            (N, features), (N, H, W) or (N, H, W, C).
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            If the rows do not hold pictures of ``shape``.
        """
        array = self._validated(X, reset=True)
        if isinstance(self.value_range, str):
            if self.value_range != "fit":
                raise InputError(f"value_range is {self.value_range!r}.", 'Use (black, white) or "fit".')
            low, high = float(array.min()), float(array.max())
            self.value_range_: ValueRange | None = (low, high if high > low else low + 1)
        else:
            self.value_range_ = self.value_range
        if isinstance(self.stage, DeblurStage):
            gated = self.gate or self.stage.gate is None
            self.stage_ = (
                self.stage if gated else DeblurStage(self.stage.restorer, batch_size=self.stage.batch_size)
            )
        else:
            self.stage_ = DeblurStage.from_pretrained(
                self.stage, device=self.device, backend=self.backend, gate=self.gate
            )
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Restore pictures.

        Parameters
        ----------
        X : array_like
            As for :meth:`fit`.

        Returns
        -------
        ndarray
            Of the shape and dtype of ``X`` (integers other than 8 and 16 unsigned bits become
            float64).

        Raises
        ------
        ImageError
            If values lie outside of the range.
        """
        check_is_fitted(self, "stage_")
        array = self._validated(X, reset=False)
        pictures = array.reshape(len(array), *self._shape(array.shape[1])) if array.ndim == 2 else array
        # Integers span their type, whatever was learned.
        if self.value_range == "fit" and self.value_range_ is not None and pictures.dtype.kind == "f":
            pictures = pictures.clip(*self.value_range_)
        if pictures.ndim == 3:
            pictures = pictures[..., None]
        restored: NDArray[Any] = self.stage_(
            pictures, value_range=self.value_range_, channel_order=self.channel_order
        )
        return restored.reshape(array.shape)

    def _validated(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        if isinstance(X, list | tuple):
            X = np.asarray(X)
        given = getattr(X, "dtype", None)
        kept = [np.float64, np.float32, np.float16, np.uint8, np.uint16]
        if getattr(X, "ndim", 2) > 2:
            array: NDArray[Any] = np.asarray(X)
            if array.ndim > 4:
                raise InputError(f"X has {array.ndim} dimensions.", "Pass (N, H, W) or (N, H, W, C).")
            if reset:
                self.n_features_in_ = math.prod(array.shape[1:])
            return array if array.dtype in kept else array.astype(np.float64)
        dtype = [given, *kept] if given in kept else kept
        array = validate_data(self, X, reset=reset, dtype=dtype)
        self._shape(array.shape[1])
        return array

    def _shape(self, features: int) -> tuple[int, int, int]:
        if self.shape is None:
            return 1, features, 1
        height, width, channels = (*self.shape, 1, 1)[:3]
        if not 2 <= len(self.shape) <= 3 or height * width * channels != features:
            raise InputError(
                f"Rows of {features} values do not hold pictures of shape {tuple(self.shape)}.",
                "Set shape=(height, width) or (height, width, channels).",
            )
        return height, width, channels

    def __sklearn_tags__(self) -> Tags:
        """Tags: every dtype of pictures is kept; three-dimensional input is welcome."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags
