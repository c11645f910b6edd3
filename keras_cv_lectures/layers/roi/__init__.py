"""Regions of interest: fixed-size features of boxes of any size.

Boxes are (x1, y1, x2, y2) float32; no gradient reaches them. All layers take feature maps (B, H, W, C) and boxes
(B, R, 4), and give (B, R, h, w, C), of which boxes of zero size, outside of the map, and R = 0 are normal input.
"""

from keras_cv_lectures.layers.roi.align import MultiLevelRoIAlign, RoIAlign, roi_levels
from keras_cv_lectures.layers.roi.pool import RoIPool, RoIWarp

__all__ = ["MultiLevelRoIAlign", "RoIAlign", "RoIPool", "RoIWarp", "roi_levels"]
