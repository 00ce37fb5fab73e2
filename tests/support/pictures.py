"""Pictures that were drawn."""

import numpy as np


def num_colours(picture: np.ndarray) -> int:
    """Number of distinct colours of an image float[H, W, 3 or 4], as matplotlib reads a PNG."""
    red, green, blue = np.moveaxis((picture[..., :3] * 255).astype(np.int32), -1, 0)
    return np.count_nonzero(np.bincount(((red << 16) + (green << 8) + blue).ravel()))
