"""The paper's own numbers, as data: tables 1 to 5 and what the text says of its verification model.

"DeepDeblur: Fast one-step blurry face images restoration", Wang, Li, Wang. Units are the paper's:
percent, decibels, seconds. Its figures 7 and 8 give no numbers. Of table 3 only kernels 1 to 4 are
known here: the text at hand has lost the row of the others.
"""

from __future__ import annotations

OURS = "deepdeblur"
"""The paper's network, by its name here."""

TITLES = {
    "sun": "Sun et al. 2013",
    "chakrabarti": "Chakrabarti 2016",
    "krishnan": "Krishnan et al. 2011",
    "levin": "Levin et al. 2011",
    "michaeli": "Michaeli & Irani 2014",
    "pan": "Pan et al. 2014",
    "perrone": "Perrone & Favaro 2014",
    OURS: "DeepDeblur",
}
"""Methods that the paper compares, by their names here."""

SECONDS = {
    "sun": 89.06,
    "chakrabarti": 20.51,
    "krishnan": 1.84,
    "levin": 22.74,
    "michaeli": 417.32,
    "pan": 10.27,
    "perrone": 18.36,
    OURS: 0.0148,
}
"""Table 1: mean seconds for one 112 x 96 face; MATLAB on a Xeon E5, the network on a GTX 1080."""

SUBSET_ACCURACY: dict[str, tuple[float, ...]] = {
    "krishnan": (92, 88, 92, 82, 92, 86, 96, 78),
    "pan": (86, 80, 84, 64, 84, 66, 72, 72),
    "levin": (92, 80, 96, 48, 98, 74, 70, 62),
    "perrone": (46, 52, 46, 48, 62, 48, 60, 66),
    "sun": (86, 88, 94, 72, 90, 80, 86, 78),
    OURS: (98, 98, 98, 96, 98, 98, 98, 98),
}
"""Table 2: verification accuracy in percent on 50 pairs, kernels 1 to 8."""

SUBSET_MEAN = {"krishnan": 88.25, "pan": 76.0, "levin": 77.5, "perrone": 53.5, "sun": 84.25, OURS: 97.75}
"""Table 2: its column of means."""

WHOLE_ACCURACY: dict[str, tuple[float | None, ...]] = {
    "none": (91.48, 86.98, 97.45, 65.63, None, None, None, None),
    OURS: (96.70, 97.48, 98.38, 95.00, None, None, None, None),
}
"""Table 3: verification accuracy in percent on the whole LFW, kernels 1 to 8; None: not known here."""

SHARP_ACCURACY = 98.98
"""Section 4.5, table 3: the verification model's accuracy in percent on LFW without blur."""

LINEAR = (15, 45)
"""Length in pixels and angle in degrees of the linear kernel (section 4.5, table 4)."""

LINEAR_PSNR = {"none": 24.95, "krishnan": 22.83, OURS: 27.38}
"""Table 4: PSNR in dB under that kernel."""

ABLATION = {"with 1x1 reduction": (25.63, 97.75), "without 1x1 reduction": (23.05, 88.5)}
"""Table 5: PSNR in dB and accuracy in percent; the paper calls the reduction depth-wise convolution."""
