"""Augmentation: draws within their ranges and from their seed alone, the fused warp against step by step OpenCV."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import picture
from drawing import NOWHERE, draw, generator
from resnet_v2.data import augment
from resnet_v2.data.augment import (
    FILL,
    INTERPOLATIONS,
    Augmentation,
    Draw,
    augmentation,
    draw_crops,
    random_resized_crop,
)
from resnet_v2.data.philox import Streams
from resnet_v2.data.rows import Box
from resnet_v2.data.trivial import Change
from resnet_v2.data.warp import apply, centre_box, centre_crop
from resnet_v2.errors import ResnetError

Pixels = NDArray[np.uint8]


def result(pixels: Pixels, drawn: Draw, size: int) -> Pixels:
    out = np.full((size, size, 3), 77, np.uint8)
    apply(pixels, drawn, out)
    return out


def step_by_step(pixels: Pixels, drawn: Draw, size: int, pad: int) -> Pixels:
    """What MXNet's augmenter does, one OpenCV call after the other."""
    if drawn.matrix is not None:
        pixels = cv2.warpAffine(
            pixels,
            np.array(drawn.matrix),
            drawn.canvas[::-1],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(FILL,) * 3,
        ).astype(np.uint8)
    pixels = cv2.copyMakeBorder(pixels, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(FILL,) * 3).astype(np.uint8)
    top, left = drawn.top + pad, drawn.left + pad
    crop = pixels[top : top + size, left : left + size]
    return crop[:, ::-1] if drawn.mirror else crop


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(("imagenet", "height", "width"), [(True, 480, 640), (True, 700, 480), (False, 32, 32)])
def test_one_warp_is_all_steps(level: int, imagenet: bool, height: int, width: int) -> None:
    size = 224 if imagenet else 32
    plan = augmentation(level, size, imagenet)
    pixels = picture(5, height, width)
    for ordinal in range(30):
        # Without the colours: there and back through 8-bit HLS turns one grey level into many where colours are pale.
        drawn = draw(plan, height, width, generator(0, 0, ordinal))._replace(hls=(0, 0, 0))
        difference = np.abs(result(pixels, drawn, size).astype(int) - step_by_step(pixels, drawn, size, plan.pad))
        assert difference.max() <= 2


def test_colours_shift_in_hls_and_clamp() -> None:
    pixels = picture(5, 64, 64)
    for offsets in ((36, -50, 50), (-36, 50, -50), (0, 1, 0), (1, 0, 0), (0, 0, 30)):
        hls = cv2.cvtColor(pixels, cv2.COLOR_RGB2HLS).astype(int)
        expected = cv2.cvtColor(np.clip(hls + offsets, 0, (180, 255, 255)).astype(np.uint8), cv2.COLOR_HLS2RGB)
        drawn = Draw((64, 64), None, 0, 0, offsets, False, NOWHERE)
        assert np.array_equal(result(pixels, drawn, 64), expected)


def test_level_1_copies_pixels() -> None:
    pixels = picture(5, 256, 300)
    plan = augmentation(1, 224, imagenet=True)
    drawn = draw(plan, 256, 300, generator(0, 0, 1))
    crop = pixels[drawn.top : drawn.top + 224, drawn.left : drawn.left + 224]
    assert np.array_equal(result(pixels, drawn, 224), crop[:, ::-1] if drawn.mirror else crop)
    assert drawn.matrix is None
    assert drawn.hls == (0, 0, 0)


def test_padding_is_grey_and_small_images_keep_their_pixels() -> None:
    plan = augmentation(1, 32, imagenet=False)
    pixels = np.full((32, 32, 3), 9, np.uint8)
    corners = set()
    for ordinal in range(400):
        drawn = draw(plan, 32, 32, generator(0, 0, ordinal))
        corners.add((drawn.top, drawn.left))
        out = result(pixels, drawn, 32)
        inside = (32 - abs(drawn.top)) * (32 - abs(drawn.left))
        assert (out == 9).sum() == 3 * inside
        assert (out == FILL).sum() == 3 * (32 * 32 - inside)
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(-4, 5))


def test_a_scaled_plan_sees_as_much_of_the_image() -> None:
    plan = augmentation(1, 32, imagenet=False).scaled(16)
    pixels = np.full((32, 32, 3), 50, np.uint8)
    pixels[:, 16:] = 200
    corners = set()
    for ordinal in range(200):
        drawn = draw(plan, 32, 32, generator(0, 0, ordinal))
        assert drawn.canvas == (16, 16)
        corners.add((drawn.top, drawn.left))
        if not drawn.top and not drawn.left:
            out = result(pixels, drawn, 16)[:, :: -1 if drawn.mirror else 1]
            assert (out[:, :7] == 50).all()
            assert (out[:, 9:] == 200).all()
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(-2, 3))


def test_draws_fill_their_ranges() -> None:
    plan = augmentation(3, 224, imagenet=True)
    drawn = [draw(plan, 480, 480, generator(1, 2, ordinal)) for ordinal in range(4000)]
    scales = np.array([one.canvas[0] / 480 for one in drawn])
    assert 0.53 < scales.min() < 0.54
    assert 0.99 < scales.max() <= 1
    assert abs(scales.mean() - (0.533 + 1) / 2) < 0.01
    hue, lightness, saturation = np.array([one.hls for one in drawn]).T
    assert (hue.min(), hue.max()) == (-35, 35)
    assert (lightness.min(), lightness.max()) == (saturation.min(), saturation.max()) == (-49, 49)
    assert abs(np.mean([one.mirror for one in drawn]) - 0.5) < 0.03
    matrices = np.array([one.matrix for one in drawn])
    angles = np.rad2deg(np.arctan2(-matrices[:, 1, 0], matrices[:, 1, 1]))
    assert set(np.round(angles).astype(int)) == set(range(-10, 11))
    assert all(0 <= one.top <= one.canvas[0] - 224 and 0 <= one.left <= one.canvas[1] - 224 for one in drawn)


def test_centre_goes_to_centre() -> None:
    for ordinal in range(20):
        drawn = draw(augmentation(3, 224, imagenet=True), 500, 640, generator(0, 0, ordinal))
        assert drawn.matrix is not None
        assert np.array(drawn.matrix) @ [320, 250, 1] == pytest.approx([drawn.canvas[1] / 2, drawn.canvas[0] / 2])


# Level, or "rrc": sides of the image, then what the seed 5 draws in epoch 6 for records 0 and 1.
PINNED: dict[int | str, tuple[int, int, list[Draw]]] = {
    1: (
        40,
        60,
        [
            Draw((40, 60), None, 3, 22, (0, 0, 0), False, NOWHERE),
            Draw((40, 60), None, 12, 29, (0, 0, 0), True, NOWHERE),
        ],
    ),
    3: (
        340,
        360,
        [
            Draw(
                (270, 286),
                ((0.7144493398, 0.0648595946, 3.3729877393), (-0.1517917587, 0.8608538417, 15.9773634828)),
                19,
                44,
                (-31, 49, 17),
                False,
                NOWHERE,
            ),
            Draw(
                (224, 237),
                ((0.6360970081, 0.0590820804, -6.0414151358), (-0.0709600773, 0.6751400375, 9.9990075441)),
                0,
                12,
                (10, -3, -8),
                True,
                NOWHERE,
            ),
        ],
    ),
    "rrc": (
        340,
        360,
        [
            Draw((224, 224), None, 0, 0, (0, 0, 0), True, NOWHERE, Box(3, 340, 5, 354)),
            Draw((224, 224), None, 0, 0, (0, 0, 0), True, NOWHERE, Box(2, 339, 75, 359)),
        ],
    ),
}


@pytest.mark.parametrize("level", PINNED)
def test_a_seed_draws_what_it_always_drew(level: int | str) -> None:
    """Runs and documents name seeds; what these give must not move."""
    plan = (
        random_resized_crop(224) if level == "rrc" else augmentation(int(level), 32 if level == 1 else 224, level != 1)
    )
    height, width, expected = PINNED[level]
    for ordinal, wanted in enumerate(expected):
        found = draw(plan, height, width, generator(5, 6, ordinal))
        assert found._replace(matrix=None, box=NOWHERE) == wanted._replace(matrix=None)
        if wanted.matrix is not None:
            assert found.matrix is not None
            assert np.array(found.matrix) == pytest.approx(np.array(wanted.matrix), abs=1e-8)


@pytest.mark.parametrize("ordinal", range(4))
def test_the_warp_turns_then_shears_then_scales(ordinal: int) -> None:
    """MXNet's formula as a product of matrices. Only the angle is whole; the shear is found from what is left."""
    plan = Augmentation(224, aspect=0.25, rotation=10, shear=0.1)
    drawn = draw(plan, 300, 400, generator(1, 1, ordinal))
    assert drawn.matrix is not None
    linear = np.array(drawn.matrix)[:, :2]
    angle = math.atan2(-linear[1, 0], linear[1, 1])
    turned_back = linear @ np.linalg.inv([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    (horizontal, sheared), (nothing, vertical) = turned_back
    assert nothing == pytest.approx(0, abs=1e-12)
    assert horizontal + vertical == pytest.approx(2)
    chances = generator(1, 1, ordinal).uniform(4)[0]
    assert sheared / vertical == pytest.approx(0.1 * (2 * chances[0] - 1))
    assert math.degrees(angle) == pytest.approx(int(21 * chances[1]) - 10)
    assert vertical / horizontal == pytest.approx(1 + 0.25 * (2 * chances[3] - 1))


@pytest.mark.parametrize("level", [1, 2])
def test_images_too_small_for_the_crop_are_enlarged(level: int) -> None:
    plan = augmentation(level, 224, imagenet=True)
    for height, width in ((100, 50), (223, 800), (1, 1)):
        drawn = draw(plan, height, width, generator(0, 0, 0))
        assert min(drawn.canvas) >= 224
        assert result(picture(1, 40, 40)[:1, :1].repeat(height, 0).repeat(width, 1), drawn, 224).shape == (224, 224, 3)


def test_colour_shift_clamps_and_does_not_wrap() -> None:
    pixels = np.full((4, 4, 3), (255, 0, 60), np.uint8)  # a red of hue near 180
    hue = int(cv2.cvtColor(pixels, cv2.COLOR_RGB2HLS)[0, 0, 0])
    assert 160 < hue < 180
    drawn = Draw((4, 4), None, 0, 0, (36, 0, 0), False, NOWHERE)
    shifted = cv2.cvtColor(result(pixels, drawn, 4), cv2.COLOR_RGB2HLS)[0, 0]
    assert int(shifted[0]) in (0, 180)


def test_mirroring_changes_no_other_draw() -> None:
    for plan in (augmentation(3, 32, False), random_resized_crop(32)):
        for ordinal in range(20):
            with_it = draw(plan, 40, 40, generator(0, 0, ordinal))
            without = draw(replace(plan, mirror=False), 40, 40, generator(0, 0, ordinal))
            assert without == with_it._replace(mirror=False)


@pytest.mark.parametrize("plan", [augmentation(2, 32, False), random_resized_crop(32)], ids=["levels", "rrc"])
def test_mirrored_in_turns(plan: Augmentation) -> None:
    """Every image in every second epoch, half of them in each; all else stays as it was."""
    sides, ordinals = np.full(2000, 40), np.arange(2000)
    sides_of = []
    for epoch in range(4):
        at_random, in_turns = (
            augment.draw(one, sides, sides, Streams(5, epoch, ordinals)) for one in (plan, replace(plan, in_turns=True))
        )
        sides_of.append([one.mirror for one in in_turns])
        assert [one._replace(mirror=False) for one in at_random] == [one._replace(mirror=False) for one in in_turns]
    assert abs(np.mean(sides_of[0]) - 0.5) < 0.05
    assert sides_of == [sides_of[0], [not one for one in sides_of[0]]] * 2
    never = augment.draw(replace(plan, in_turns=True, mirror=False), sides, sides, Streams(5, 1, ordinals))
    assert not any(one.mirror for one in never)


def test_many_images_draw_what_each_does_alone() -> None:
    """Of sizes that are too small, just large enough, and others: each by its own rules."""
    rng = np.random.default_rng(1)
    heights, widths = rng.integers(1, 700, 300), rng.integers(1, 700, 300)
    ordinals = rng.integers(0, 1 << 40, 300)
    plans = [augmentation(level, 224, imagenet=True) for level in (1, 2, 3)]
    for plan in (*plans, augmentation(1, 32, imagenet=False), random_resized_crop(224)):
        together = augment.draw(plan, heights, widths, Streams(3, 4, ordinals))
        for one, height, width, ordinal in zip(together, heights.tolist(), widths.tolist(), ordinals, strict=True):
            assert one == draw(plan, height, width, generator(3, 4, ordinal))
            assert 0 <= one.box.top < one.box.bottom <= height
            assert 0 <= one.box.left < one.box.right <= width


@pytest.mark.parametrize(("size", "in_turns"), [(16, False), (24, True), (32, False), (32, True)])
def test_crops_of_one_size_are_those_of_all(size: int, in_turns: bool) -> None:
    plan = replace(augmentation(1, 32, imagenet=False), size=size, in_turns=in_turns)
    tops, lefts, side, mirror = draw_crops(plan, 32, 40, Streams(1, 2, np.arange(50)))
    assert side == size
    for one, top, left, turned in zip(
        augment.draw(plan, np.full(50, 32), np.full(50, 40), Streams(1, 2, np.arange(50))),
        tops.tolist(),
        lefts.tolist(),
        mirror.tolist(),
        strict=True,
    ):
        assert (one.top, one.left, one.mirror, one.matrix) == (top, left, turned, None)


def test_the_smallest_shift_of_the_last_hue_clamps() -> None:
    pixels = np.full((4, 4, 3), (255, 0, 1), np.uint8)
    hls = cv2.cvtColor(pixels, cv2.COLOR_RGB2HLS)
    assert int(hls[0, 0, 0]) == 180
    shifted = result(pixels, Draw((4, 4), None, 0, 0, (1, 0, 0), False, NOWHERE), 4)
    assert np.array_equal(shifted, cv2.cvtColor(hls, cv2.COLOR_HLS2RGB))


def test_unknown_level() -> None:
    with pytest.raises(ResnetError, match="levels are 1, 2 and 3"):
        augmentation(4, 224, imagenet=True)


def test_plans() -> None:
    assert augmentation(1, 32, imagenet=False) == Augmentation(32, pad=4)
    assert not augmentation(1, 224, imagenet=True).warps()
    assert augmentation(2, 224, imagenet=True).warps()
    assert augmentation(3, 224, imagenet=True).rotation == 10


@pytest.mark.parametrize(("height", "width"), [(256, 341), (225, 224), (224, 224)])
def test_centre_crop(height: int, width: int) -> None:
    pixels = picture(2, height, width)
    out = np.empty((224, 224, 3), np.uint8)
    centre_crop(pixels, out)
    top, left = (height - 224) // 2, (width - 224) // 2
    assert np.array_equal(out, pixels[top : top + 224, left : left + 224])


@pytest.mark.parametrize(("height", "width", "top", "left"), [(50, 80, 0, 67), (90, 60, 56, 0), (60, 60, 0, 0)])
def test_evaluation_enlarges_all_of_a_small_image(height: int, width: int, top: int, left: int) -> None:
    """The shorter side becomes 224; the box that is decoded for it is the whole image."""
    pixels = picture(3, height, width)
    assert centre_box(224, height, width) == Box(0, height, 0, width)
    scale = 224 / min(height, width)
    large = cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
    out = np.empty((224, 224, 3), np.uint8)
    centre_crop(pixels, out)
    assert np.array_equal(out, large[top : top + 224, left : left + 224])


def test_centre_crop_enlarges() -> None:
    out = np.empty((224, 224, 3), np.uint8)
    centre_crop(np.full((100, 301, 3), 50, np.uint8), out)
    assert (out == 50).all()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("level", [1, 2, 3, "rrc"])
def test_a_part_of_the_image_is_enough(level: int | str, interpolation: str) -> None:
    pixels = picture(4, 480, 520)
    plan = random_resized_crop(224) if level == "rrc" else augmentation(int(level), 224, imagenet=True)
    plan = replace(plan, interpolation=interpolation)
    for ordinal in range(20):
        drawn = draw(plan, 480, 520, generator(0, 0, ordinal))
        whole, part = (np.empty((224, 224, 3), np.uint8) for _ in range(2))
        apply(pixels, drawn, whole, interpolation)
        apply(drawn.box.of(pixels), drawn.within_box(), part, interpolation)
        # Positions are counted from another corner and rounded, where OpenCV's tables have 32 places for a pixel.
        difference = np.abs(whole.astype(int) - part)
        assert (difference > 1).mean() < (
            0 if level in (1, "rrc") else 1e-4 if interpolation == "bilinear" else 2e-3
        ) + 1e-9


@pytest.mark.parametrize("level", [2, 3])
def test_a_part_of_an_enlarged_image_is_enough(level: int) -> None:
    """Between two of its pixels lie several of the crop, the last of which need the one beyond."""
    pixels, plan = picture(4, 120, 90), augmentation(level, 224, imagenet=True)
    for ordinal in range(40):
        drawn = draw(plan, 120, 90, generator(3, 0, ordinal))
        drawn = drawn._replace(hls=(0, 0, 0))
        part = result(drawn.box.of(pixels), drawn.within_box(), 224)
        difference = np.abs(result(pixels, drawn, 224).astype(int) - part)
        assert difference.max() <= 1


def test_random_resized_crops_fill_their_ranges() -> None:
    plan = random_resized_crop(224)
    drawn = [draw(plan, 450, 450, generator(5, 0, ordinal)) for ordinal in range(4000)]
    boxes = [one.source for one in drawn]
    assert all(
        box is not None and 0 <= box.top < box.bottom <= 450 and 0 <= box.left < box.right <= 450 for box in boxes
    )
    shares = np.array([box.area / 450**2 for box in boxes if box is not None])
    aspects = np.array([(box.right - box.left) / (box.bottom - box.top) for box in boxes if box is not None])
    assert 0.079 < shares.min() < 0.09
    assert 0.95 < shares.max() <= 1
    assert 0.74 < aspects.min() < 0.77
    assert 1.31 < aspects.max() < 1.35
    assert abs(np.log(aspects).mean()) < 0.02
    assert abs(np.mean([one.mirror for one in drawn]) - 0.5) < 0.03
    # No box of such an aspect is that wide: the largest in the middle, 3:4 and 4:3 at most.
    strip = draw(plan, 10, 500, generator(0, 0, 0)).source
    assert strip is not None
    assert (strip.bottom - strip.top, strip.right - strip.left) == (10, 13)
    assert strip.left == (500 - 13) // 2


@pytest.mark.parametrize(("bottom", "right"), [(320, 244), (244, 320), (180, 244), (244, 180), (400, 180), (180, 400)])
def test_areas_are_for_sides_that_shrink(bottom: int, right: int) -> None:
    """Where one side grows both are bilinear; a side that stays is no side that grows."""
    pixels = picture(4, 440, 440)
    out = np.empty((224, 224, 3), np.uint8)
    apply(pixels, Draw((224, 224), None, 0, 0, (0, 0, 0), False, NOWHERE, Box(20, bottom, 20, right)), out, "area")
    shrinks = min(bottom, right) - 20 >= 224
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    assert np.array_equal(out, cv2.resize(pixels[20:bottom, 20:right], (224, 224), interpolation=method))


def test_a_resized_crop_is_opencvs_resize() -> None:
    pixels = picture(4, 300, 400)
    drawn = Draw((224, 224), None, 0, 0, (0, 0, 0), False, NOWHERE, Box(20, 280, 30, 390))
    for name, method in (("bilinear", cv2.INTER_LINEAR), ("area", cv2.INTER_AREA), ("bicubic", cv2.INTER_CUBIC)):
        out = np.empty((224, 224, 3), np.uint8)
        apply(pixels, drawn, out, name)
        expected = cv2.resize(pixels[20:280, 30:390], (224, 224), interpolation=method)
        assert np.abs(out.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("level", [1, 2, "rrc"])
def test_what_happens_to_a_crop_moves_no_other_draw(level: int | str) -> None:
    plan = random_resized_crop(64) if level == "rrc" else augmentation(int(level), 64, imagenet=True)
    erased = 0
    for ordinal in range(200):
        before = draw(plan, 100, 120, generator(5, 6, ordinal))
        after = draw(replace(plan, trivial=True, erasing=0.5), 100, 120, generator(5, 6, ordinal))
        assert after.change is not None
        assert after._replace(change=None, erased=None) == before
        alone = draw(replace(plan, erasing=0.5), 100, 120, generator(5, 6, ordinal))
        assert (alone.erased, alone.change) == (after.erased, None)
        erased += after.erased is not None
    assert 70 < erased < 130


def test_erased_boxes_fill_their_ranges() -> None:
    plan = replace(augmentation(1, 224, imagenet=True), erasing=1.0)
    drawn = augment.draw(plan, np.full(3000, 256), np.full(3000, 256), Streams(1, 2, np.arange(3000)))
    boxes = [one.erased for one in drawn if one.erased is not None]
    assert len(boxes) == 3000
    areas = np.array([box.area for box in boxes]) / 224**2
    aspects = np.array([(box.right - box.left) / (box.bottom - box.top) for box in boxes])
    assert (areas.min(), areas.max(), areas.mean()) == pytest.approx((0.02, 0.33, 0.175), abs=0.01)
    assert (aspects.min(), aspects.max()) == pytest.approx((0.3, 3.3), rel=0.05)
    edges = np.array(boxes)
    assert (edges.min(), edges.max()) == (0, 224)


def test_a_change_comes_after_the_mirror_and_the_box_last() -> None:
    pixels = picture(1, 60, 60)
    plain = Draw((60, 60), None, 5, 6, (0, 0, 0), True, Box(5, 45, 6, 46))
    crop = result(pixels, plain, 40)
    drawn = plain._replace(change=Change("translate-x", 8.0), erased=Box(10, 20, 3, 12))
    wanted = np.full_like(crop, FILL)
    wanted[:, 8:] = crop[:, :-8]
    wanted[10:20, 3:12] = FILL
    assert np.array_equal(result(pixels, drawn, 40), wanted)
