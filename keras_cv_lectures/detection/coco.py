"""The categories of COCO as the published detection networks number them."""

from __future__ import annotations

# Outputs 1 to 90 of the published heads; "-" where COCO has no category.
_NAMES = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign parking_meter
bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - - handbag tie suitcase
frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle -
wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair
couch potted_plant bed - dining_table - - toilet - tv laptop mouse remote keyboard cell_phone microwave oven
toaster sink refrigerator - book clock vase scissors teddy_bear hair_drier toothbrush
"""
_KEYPOINTS = """
nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle
"""

_BY_OUTPUT = _NAMES.split()
COCO_IDS = tuple(index for index, name in enumerate(_BY_OUTPUT, start=1) if name != "-")
COCO_CLASSES = tuple(name.replace("_", " ") for name in _BY_OUTPUT if name != "-")
COCO_OUTPUTS = len(_BY_OUTPUT) + 1
COCO_KEYPOINTS = tuple(_KEYPOINTS.split())

__all__ = ["COCO_CLASSES", "COCO_IDS", "COCO_KEYPOINTS", "COCO_OUTPUTS"]
