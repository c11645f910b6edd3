"""Pictures as a report shows them."""

from __future__ import annotations

import numpy as np


def shown_image(image: np.ndarray) -> np.ndarray:
    """Of a picture (H, W, C) with other channels than grey or RGB the first three, or of two the first."""
    return image if image.shape[-1] in (1, 3) else image[..., : 3 if image.shape[-1] > 3 else 1]
