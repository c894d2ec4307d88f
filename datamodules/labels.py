"""Labels that are not the true ones, and subsets: what experiments on memorising need.

Every function draws once, with its seed: call it once a run, and never within an epoch. Labels that are drawn again
while a network trains cannot be learnt by heart, and an experiment that does so measures something else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.originals import DataError

Labels = NDArray[np.int64]


def random_labels(count: int, num_classes: int, seed: int) -> Labels:
    """`count` labels, each uniform over the classes (Zhang et al. 2017, section 2.1, "random labels"). [count]"""
    _check_classes(num_classes)
    return np.random.default_rng(seed).integers(num_classes, size=count)


def corrupted_labels(labels: Labels, share: float, num_classes: int, seed: int, wrong: bool = False) -> Labels:
    """`labels` [N], of which each is replaced with probability `share` by a uniform draw over the classes. [N]

    The draw may be the true class (Zhang et al. 2017, "partially corrupted labels"), so that at share 1 a tenth of ten
    classes' labels is right; with `wrong` it is one of the others (Nakkiran et al. 2020, "label noise"). With one seed,
    what is replaced at a smaller share is replaced by the same at a larger one.

    Raises:
        DataError: share is no probability, or a label no class.
    """
    _check_classes(num_classes)
    if not 0 <= share <= 1:
        raise DataError(f"the share of corrupted labels (={share}) must lie in [0, 1]: 0 is none, 1 is all of them.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(
            f"labels from {labels.min()} to {labels.max()} must lie in 0 to {num_classes - 1}: give the number of "
            "classes of the dataset."
        )
    generator = np.random.default_rng(seed)
    replaced = generator.random(len(labels)) < share
    drawn = generator.integers(num_classes, size=len(labels))
    if wrong:
        drawn = (labels + generator.integers(1, num_classes, size=len(labels))) % num_classes
    return np.where(replaced, drawn, labels)


def subset(total: int, count: int, seed: int, of: str = "the dataset") -> NDArray[np.int64]:
    """Numbers of `count` samples out of `total`, none twice, in the order drawn. [count]

    Raises:
        DataError: there are not so many.
    """
    if not 1 <= count <= total:
        raise DataError(f"samples (={count}) must be 1 to {total}, of which {of} consists: ask for fewer.")
    return np.random.default_rng(seed).permutation(total)[:count]


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise DataError(f"num_classes (={num_classes}) must be at least 2: of one class no label can be wrong.")
