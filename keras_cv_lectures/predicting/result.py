"""What a segmentation predicts for one picture, for people and for programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from keras_cv_lectures import files
from keras_cv_lectures.predicting.pictures import with_channels
from keras_cv_lectures.visualize import overlays


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationResult:
    """Prediction for one picture, at the picture's own size.

    Attributes:
        image: (H, W, C) uint8, the picture as given.
        class_map: (H, W) int32, label of every pixel.
        classes: names in label order.
        colors: (red, green, blue) in 0..255 for each class.
        name: name of the picture's file without suffix, "" where it had none; unique among those of one `predict`.
        probabilities: (H, W, K) float32, in 0..1; K = 1 holds the foreground's. Made at first use, since it is K times
            as large as all the rest; of a large tiled picture it costs the network's time again.
    """

    image: np.ndarray
    class_map: np.ndarray
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    name: str = ""
    make_probabilities: Callable[[], np.ndarray] = field(repr=False)

    def __repr__(self) -> str:
        height, width = self.class_map.shape
        found = ", ".join(self.classes[label] for label in self.present)
        return f"SegmentationResult({self.name!r}, {height}x{width} pixels: {found})"

    @cached_property
    def probabilities(self) -> np.ndarray:
        return self.make_probabilities()

    @property
    def present(self) -> list[int]:
        """Labels that occur, in ascending order."""
        return np.flatnonzero(np.bincount(self.class_map.ravel(), minlength=len(self.classes))).tolist()

    def overlay(self, alpha: float = 0.5) -> np.ndarray:
        """(H, W, 3) uint8: the classes' colours over the picture; `alpha` is the share of the colour."""
        picture = self.image
        if picture.shape[-1] != 1:
            # Of a picture with other channels than RGB the first three are shown.
            picture = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1]
        return overlays.overlay(with_channels(picture, 3), self.class_map, self.colors, alpha, ignore_label=None)

    def legend(self, width: int | None = None) -> np.ndarray:
        """(h, w, 3) uint8: colour and name of every class that occurs."""
        return overlays.legend(self.classes, self.colors, self.present, width=width)

    def save(self, folder: str | os.PathLike, stem: str | None = None) -> dict[str, Path]:
        """Writes `STEM_classes.png` and `STEM_overlay.png`, each of them whole or not at all.

        The first is a palette PNG: its pixel values are the labels, and it shows in the classes' colours (more than
        256 classes: 16-bit grey). The second is the overlay with the legend below.

        Args:
            folder: made if it does not exist.
            stem: beginning of the file names; None for `name`, or "prediction" where that is empty.

        Returns:
            `{"classes": path, "overlay": path}`.
        """
        from PIL import Image

        stem = stem or self.name or "prediction"
        paths = {kind: Path(folder) / f"{stem}_{kind}.png" for kind in ("classes", "overlay")}
        if len(self.classes) > 256:
            labels = Image.fromarray(self.class_map.astype(np.uint16))
        else:
            labels = Image.fromarray(self.class_map.astype(np.uint8))
            labels.putpalette(np.asarray(self.colors, np.uint8).tobytes())
        painted = self.overlay()
        shown = np.concatenate([painted, self.legend(width=painted.shape[1])])
        for kind, picture in (("classes", labels), ("overlay", Image.fromarray(shown))):
            with files.atomic_path(paths[kind]) as temporary:
                picture.save(temporary)
        return paths
