"""The overlap-tile plan: every pixel once, windows of one size, mirrored borders."""

import numpy as np
import pytest

from keras_cv_lectures.geometry.tiles import cut_window, mirror_indices, mirror_pad, plan_tiles


def test_mirroring_by_hand():
    assert mirror_indices(-5, 9, 4).tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert mirror_indices(-2, 3, 1).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_mirroring_is_numpys_reflection(size):
    row = np.arange(size)
    assert row[mirror_indices(-13, size + 11, size)].tolist() == np.pad(row, (13, 11), mode="reflect").tolist()


def test_window_beyond_every_border_is_cut_from_the_mirrored_picture():
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    padded = np.pad(picture, ((9, 9), (9, 9), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(mirror_pad(picture, ((9, 9), (9, 9))), padded)
    np.testing.assert_array_equal(cut_window(picture, (-4, 3), (6, 11)), padded[5:11, 12:23])
    np.testing.assert_array_equal(cut_window(picture, (1, 2), (3, 4)), picture[1:4, 2:6])


def test_window_is_a_copy():
    picture = np.zeros((4, 4, 1), np.uint8)
    cut_window(picture, (0, 0), (4, 4))[:] = 1
    assert not picture.any()


def test_plan_by_hand():
    # 10 pixels in windows of 8 that give 6, one unused at each edge, stride 2: blocks of 4 that start at 0, 4, 8.
    plan = plan_tiles((10, 4), 8, output=6, margin=1, stride=2)
    assert (plan.grid, len(plan), plan.step, plan.border) == ((3, 1), 3, (4, 4), (2, 2))
    tiles = list(plan)
    assert [tile.origin for tile in tiles] == [(-2, -2), (2, -2), (6, -2)]
    assert [tile.picture[0] for tile in tiles] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert [tile.kept[0] for tile in tiles] == [slice(1, 5), slice(1, 5), slice(1, 3)]


def test_the_papers_windows():
    plan = plan_tiles((512, 512), 572, output=388, stride=16)
    assert plan.border == (92, 92)
    assert plan.step == (384, 384)
    assert len(plan) == 4


@pytest.mark.parametrize("picture", [(1, 1), (3, 50), (32, 33), (100, 47)])
@pytest.mark.parametrize(
    ("window", "output", "margin", "stride"), [(32, 32, 8, 4), (60, 20, 0, 4), ((40, 24), None, (9, 5), 3)]
)
def test_every_pixel_is_answered_once_and_from_its_own_place(picture, window, output, margin, stride):
    plan = plan_tiles(picture, window, output=output, margin=margin, stride=stride)
    rows, columns = np.mgrid[: picture[0], : picture[1]]
    positions = np.stack([rows, columns], -1)
    answers = np.zeros(picture, int)
    offset = [(w - o) // 2 for w, o in zip(plan.window, plan.output, strict=True)]
    for tile in plan:
        answers[tile.picture] += 1
        seen = cut_window(positions, tile.origin, plan.window)
        given = seen[offset[0] : offset[0] + plan.output[0], offset[1] : offset[1] + plan.output[1]]
        np.testing.assert_array_equal(given[tile.kept], positions[tile.picture])
        for axis in range(2):
            kept, size = tile.kept[axis], plan.output[axis]
            assert kept.start >= plan.margin[axis]
            assert kept.stop <= size - plan.margin[axis]
            assert (tile.origin[axis] + plan.border[axis]) % (stride if isinstance(stride, int) else stride[axis]) == 0
    assert (answers == 1).all()


@pytest.mark.parametrize("window", [16, (64, 17)])
def test_too_small_a_window_names_the_smallest_that_would_do(window):
    with pytest.raises(ValueError, match="at least 20 x 20"):
        plan_tiles((50, 50), window, margin=8, stride=4)
    plan_tiles((50, 50), 20, margin=8, stride=4)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        plan_tiles((0, 5), 8)
    with pytest.raises(ValueError, match="must not be larger"):
        plan_tiles((5, 5), 8, output=9)
    with pytest.raises(ValueError, match="stride"):
        plan_tiles((5, 5), 8, stride=0)
