"""scikit-learn: the stage as the first step of a pipeline, cloned and tuned like any other.

    python examples/sklearn_pipeline.py

Patches of scikit-image's face data set (25 x 25, grey; ``lfw_subset`` ships with the package):
face or no face, told from blurred pictures by a classifier that was trained on sharp ones.
"""

from __future__ import annotations

import numpy as np
import torch
from common import stage_from_arguments
from skimage.data import lfw_subset
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from blurface.kernels.convolve import blur
from blurface.kernels.linear import linear_psf
from blurface.sklearn import DeblurTransformer


def main() -> None:
    stage = stage_from_arguments("scikit-learn pipeline")
    pictures = lfw_subset().astype(np.float32)  # 100 faces, then 100 that are none
    labels = np.repeat([1, 0], 100)
    batch = torch.from_numpy(pictures)[:, None]
    blurry = blur(batch, torch.from_numpy(linear_psf(5, 30)), border="replicate")[:, 0].numpy()
    train, test = train_test_split(np.arange(200), test_size=0.5, random_state=0, stratify=labels)

    pipeline = make_pipeline(
        DeblurTransformer(stage, shape=(25, 25)), PCA(20, random_state=0), LogisticRegression(max_iter=1000)
    )
    flat = {"sharp": pictures.reshape(200, -1), "blurry": blurry.reshape(200, -1)}
    pipeline.fit(flat["sharp"][train], labels[train])
    print("Accuracy on 100 patches; an illustration, no benchmark.")
    for name, rows in flat.items():
        print(f"  {name:<7} {pipeline.score(rows[test], labels[test]):.2f}")
    print(pipeline.set_params(deblurtransformer__gate=False))


if __name__ == "__main__":
    main()
