"""Attention over pictures: where it is bright, how it is laid out, and what is refused."""

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize import attention_grid, attention_maps, captioned, side_by_side

WORDS = ["a", "red", "star"]
RNG = np.random.default_rng(0)


def one_hot(*places, grid=(14, 14)):
    maps = np.zeros((len(places), *grid), np.float32)
    for row, place in enumerate(places):
        maps[(row, *place)] = 1
    return maps


def test_a_map_is_brightest_where_the_weight_is_and_falls_off_as_the_papers_gaussian():
    (found,) = attention_maps(one_hot((4, 9)), (224, 224))
    assert (found.dtype, found.shape, found.min(), found.max()) == (np.float32, (224, 224), 0.0, 1.0)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert (row, column) == (pytest.approx(4.5 * 16, abs=1), pytest.approx(9.5 * 16, abs=1))
    # A location of 16 pixels under a Gaussian of 20: half its height at 20 * sqrt(2 ln 2) = 23.5 pixels, a little more.
    assert 0.5 < found[row + 23, column] < 0.6
    assert found[row + 30, column] < 0.4
    np.testing.assert_allclose(found[row + 20, column], found[row, column + 20], atol=0.03)


def test_smoothing_means_the_same_at_every_size():
    weights = RNG.random((2, 5, 7)).astype(np.float32)
    small, large = attention_maps(weights, (40, 56)), attention_maps(weights, (160, 224))
    assert np.abs(small - large.reshape(2, 40, 4, 56, 4).mean(axis=(2, 4))).max() < 0.05
    sharp = attention_maps(weights, (80, 112), sigma=0.33)
    assert np.abs(np.diff(sharp)).mean() > 1.5 * np.abs(np.diff(attention_maps(weights, (80, 112)))).mean()


def test_even_weights_and_no_weights():
    maps = attention_maps(np.stack([np.full((3, 4), 1 / 12), np.zeros((3, 4))]), (6, 8))
    assert (maps[0] == 1).all()
    assert (maps[1] == 0).all()
    nearly = np.full((3, 4), 1 / 12, np.float32) * (1 + 1e-6 * RNG.random((3, 4)))
    assert (attention_maps(nearly, (6, 8)) == 1).all()  # rounding is not shown as contrast
    assert attention_maps(np.ones((2, 2)), (6, 8)).shape == (6, 8)
    assert attention_maps(np.zeros((0, 2, 2)), (6, 8)).shape == (0, 6, 8)


@pytest.mark.parametrize(
    ("attention", "size", "sigma"),
    [
        (np.full((1, 2, 2), -0.1), (6, 8), 1.0),
        (np.full((1, 2, 2), np.nan), (6, 8), 1.0),
        (np.ones((1, 4)).ravel(), (6, 8), 1.0),
        (np.ones((1, 0, 2)), (6, 8), 1.0),
        (np.ones((1, 2, 2)), (0, 8), 1.0),
        (np.ones((1, 2, 2)), (6, 8), -1.0),
    ],
    ids=["negative", "nan", "flat", "empty", "size", "sigma"],
)
def test_what_is_no_attention(attention, size, sigma):
    with pytest.raises(DataError, match="attention must be|size must be"):
        attention_maps(attention, size, sigma)


def test_the_grid_shows_the_picture_and_each_word():
    image = np.full((60, 90, 3), (200, 40, 40), np.uint8)
    attention = one_hot((0, 0), (3, 5), (1, 2), grid=(4, 6))
    grid = attention_grid(image, WORDS, attention, columns=2, side=90)
    # Cells of 60 x 90 with a line of text of 25 above, gaps of 6; two rows of two.
    assert grid.shape == (2 * (60 + 25 + 6) + 6, 2 * (90 + 6) + 6, 3)
    first, red = grid[31:91, 6:96], grid[91 + 31 : 91 + 91, 6:96]
    assert (first == (200, 40, 40)).all()
    assert red[-8:, -8:].mean() > 150 > 60 > red[:8, :8].mean()  # white where it looked, dark elsewhere
    assert (grid[:, -6:] == 255).all()
    assert (grid[6:31, 6:96] == 255).all()  # no word above the picture
    assert (grid[6:31, 102:192] < 100).any()
    with_betas = attention_grid(image, WORDS, attention, columns=2, side=90, betas=[0.5, 0.25, 1])
    assert with_betas.shape == grid.shape
    assert (with_betas != grid).any()
    titled = attention_grid(image, WORDS, attention, columns=2, side=90, title="a red star")
    np.testing.assert_array_equal(titled[-len(grid) :], grid)
    assert len(titled) > len(grid)


def test_light_keeps_the_colours():
    image = np.full((64, 64, 3), (200, 40, 40), np.uint8)
    grid = attention_grid(image, ["red"], one_hot((3, 3), grid=(4, 4)), side=64, style="light")
    cell = grid[-70:-6, -70:-6].astype(int)
    brightest = cell.reshape(-1, 3)[cell.sum(-1).argmax()]
    assert np.abs(brightest - (200, 40, 40)).max() <= 1
    darkest = cell.reshape(-1, 3)[cell.sum(-1).argmin()]
    assert 30 < darkest[0] < 60
    assert darkest[0] > darkest[1]


def test_grey_and_tiny_pictures_are_enlarged():
    grid = attention_grid(np.zeros((4, 6), np.uint8), ["a"], np.ones((1, 2, 3)), side=60)
    assert grid.shape[1] == 2 * (60 + 6) + 6


def test_soft_and_hard_side_by_side():
    image, soft, hard = np.zeros((30, 30, 3), np.uint8), np.ones((3, 2, 2)) / 4, one_hot(*[(0, 1)] * 3, grid=(2, 2))
    both = side_by_side(image, WORDS, soft, hard, side=48, columns=4)
    alone = attention_grid(image, WORDS, soft, side=48, columns=4, title="soft attention: a red star")
    assert both.shape == (2 * len(alone), alone.shape[1], 3)
    np.testing.assert_array_equal(both[: len(alone)], alone)
    differing = side_by_side(image, (WORDS, ["a", "star"]), soft, hard[:2], side=48, columns=4)
    assert differing.shape[1] == alone.shape[1]
    with pytest.raises(DataError, match="a map|one map"):
        side_by_side(image, WORDS, soft, hard[:2])
    with pytest.raises(DataError, match="pair of captions"):
        side_by_side(image, (WORDS, WORDS, WORDS), soft, hard)


def test_a_caption_has_as_many_lines_as_it_needs():
    image = np.zeros((40, 80, 3), np.uint8)
    short, long = captioned(image, "a star", side=200), captioned(image, " ".join(["star"] * 30), side=200)
    line = len(short) - 100
    assert short.shape[1] == long.shape[1] == 200
    assert (len(long) - 100) % line == 0
    assert len(long) - 100 >= 4 * line
    assert captioned(image, "", side=200).shape == (100, 200, 3)
    assert captioned(image, "unpronounceable" * 9, side=200).shape[1] == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": np.ones((4, 2, 2))}, "one map .* for each of the 3 words"),
        ({"attention": np.ones((3, 4))}, "one map"),
        ({"betas": [0.5]}, "3 words, 1 betas"),
        ({"columns": 0}, "columns=0"),
        ({"side": 3}, "side=3"),
        ({"style": "blue"}, "style must be one of paper, light"),
        ({"image": np.zeros((5, 5, 2))}, "image must be"),
    ],
    ids=str,
)
def test_what_does_not_fit(changes, message):
    arguments = {"image": np.zeros((8, 8, 3), np.uint8), "words": WORDS, "attention": np.ones((3, 2, 2)), **changes}
    with pytest.raises(DataError, match=message):
        attention_grid(arguments.pop("image"), arguments.pop("words"), arguments.pop("attention"), **arguments)
