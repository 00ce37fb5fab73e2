"""Pictures that were drawn."""

import matplotlib.image
import numpy as np


def num_colours(path) -> int:
    """Number of distinct colours of a PNG."""
    red, green, blue = np.moveaxis((matplotlib.image.imread(path)[..., :3] * 255).astype(np.int32), -1, 0)
    return np.count_nonzero(np.bincount(((red << 16) + (green << 8) + blue).ravel()))
