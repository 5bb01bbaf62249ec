"""The pictures show what was kept, and are what their file names say."""

import itertools
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from onevision_hf.view import (
    ClipView,
    Packets,
    check_suffix,
    colour_map,
    draw_moments,
    draw_sheet,
    moments,
    save,
)
from onevision_hf.view.painting import ACCENT, FAINT, INK, PANEL, TYPE_COLOURS, font_of
from onevision_hf.view.sheet import _words
from onevision_hf.view.timeline import TimeAxis, draw_packets, draw_sample_marks, draw_shares

SIZES = np.array([10_000, 100, 100, 2_500, 100, 100, 2_500, 100, 100, 2_500, 100, 400])


@pytest.fixture
def view() -> ClipView:
    """Six frames of 3 x 4 patches of 8 pixels, every other one of a stream of twelve; frame 0 whole, then one
    patch a frame."""
    rng = np.random.default_rng(0)
    frames = rng.integers(60, 255, (6, 24, 32, 3), dtype=np.uint8)
    energy = rng.random((6, 3, 4)).astype(np.float32)
    whole = [[0, h, w] for h in range(3) for w in range(4)]
    single = [[t, 1, t % 4] for t in range(1, 6)]
    packets = Packets(np.arange(12) / 4, SIZES, list("IBBPBBPBBPBP"), np.arange(0, 12, 2))
    signals = {"vectors": energy * 0.5, "bits": np.zeros_like(energy), "residual": "none: of this codec"}
    return ClipView(
        frames,
        energy,
        np.array(whole + single),
        np.arange(6) / 2,
        list("IBPBBB"),
        title="a.mp4",
        signals=signals,
        weights={"vectors": 2.0},
        packets=packets,
    )


def test_kept_patches_keep_their_pixels_and_the_rest_is_dark_grey(view):
    picture = view.dimmed(2)
    assert np.array_equal(picture[8:16, 16:24], view.frames[2, 8:16, 16:24])
    rest = picture[:8]
    assert np.all(rest.max(axis=-1) == rest.min(axis=-1)) and rest.max() < 80
    assert np.array_equal(view.dimmed(0), view.frames[0])


def test_uniform_sampling_gets_the_same_budget_in_whole_frames(view):
    assert view.seen.tolist() == [0]  # 17 patches buy one frame of 12
    everything = np.argwhere(np.ones((6, 3, 4), bool))
    richer = ClipView(view.frames, view.energy, everything[:36], view.timestamps)
    assert richer.seen.tolist() == [0, 2, 5]


def test_lighter_means_more_in_even_steps():
    colours = colour_map(np.linspace(0, 1, 64)).astype(float)
    brightness = colours @ [0.2126, 0.7152, 0.0722]
    assert np.all(np.diff(brightness) > 0) and brightness[0] < 20 and brightness[-1] > 225
    assert np.array_equal(colour_map(np.array([-1.0, 2.0])), colour_map(np.array([0.0, 1.0])))


def test_heat_is_one_colour_a_patch(view):
    heat = view.heat(3)
    assert heat.shape == view.frames[3].shape
    patches = heat.reshape(3, 8, 4, 8, 3)
    assert np.all(patches == patches[:, :1, :, :1])


def colour_at(image, x, y):
    return image.getpixel((round(x), round(y)))


def test_each_packet_has_a_bar_of_its_type_where_it_is_shown_as_high_as_its_root(view):
    image = Image.new("RGB", (500, 120))
    axis = TimeAxis(view, 10, 490)  # three seconds: 40 pixels a packet
    draw_packets(ImageDraw.Draw(image), view, axis, 10, 110)
    for frame, (size, kind) in enumerate(zip(SIZES, view.packets.picture_types, strict=True)):
        middle = 10 + 40 * frame + 20
        assert sum(axis.span(frame)) / 2 == pytest.approx(middle)
        top = 110 - (size / SIZES.max()) ** 0.5 * 100
        assert colour_at(image, middle, top + 3) == TYPE_COLOURS[kind]
        assert frame == 0 or colour_at(image, middle, top - 3) == PANEL


def test_uneven_times_make_bars_of_uneven_width(view):
    late = Packets(np.array([0.0, 1.0, 1.5, 4.0]), np.ones(4), list("IPPP"), np.array([0, 3]))
    pair = ClipView(view.frames[:2], view.energy[:2], view.positions[:12], np.array([0.0, 4.0]), packets=late)
    axis = TimeAxis(pair, 0, 500)  # the last one lasts as long as the others in the median: a second
    assert [axis.span(n) for n in range(4)] == [(0, 100), (100, 150), (150, 400), (400, 500)]
    assert axis.middle(1) == 450 and axis.until(0) == (0, 400)


def test_the_sampled_frames_are_marked_under_their_packets_and_no_others(view):
    image = Image.new("RGB", (500, 40))
    axis = TimeAxis(view, 10, 490)
    draw_sample_marks(ImageDraw.Draw(image), axis, 10, 16, chosen=(0, 3))
    for frame in range(12):
        t, odd = divmod(frame, 2)
        expected = (0, 0, 0) if odd else INK if t in (0, 3) else FAINT
        assert colour_at(image, 10 + 40 * frame + 20, 17) == expected
        assert colour_at(image, 10 + 40 * frame + 20, 24) == (INK if expected == INK else (0, 0, 0))


def test_shares_fill_the_time_to_the_next_sampled_frame(view):
    image = Image.new("RGB", (500, 40))
    draw_shares(ImageDraw.Draw(image), TimeAxis(view, 10, 490), np.array([1, 0, 0.5, 0, 0, 0]), 0, 30, (0,))
    assert colour_at(image, 10 + 60, 3) == ACCENT  # packets 0 and 1, a frame of which all is kept
    assert colour_at(image, 10 + 80 + 40, 28) == PANEL
    assert colour_at(image, 10 + 160 + 40, 5) == PANEL and colour_at(image, 10 + 160 + 40, 25) not in (
        PANEL,
        ACCENT,
    )


def test_a_sheet_has_the_axis_and_a_row_for_each_signal_that_there_is(view):
    sheet = np.asarray(draw_sheet(view))
    assert sheet.shape[1] == 2000 and sheet.std() > 20
    for colour in (TYPE_COLOURS["P"], TYPE_COLOURS["B"], INK, ACCENT):
        assert (sheet == colour).all(-1).any()
    bare = ClipView(view.frames, view.energy, view.positions, view.timestamps, view.picture_types)
    row = round(24 / 32 * (1666 - 60) // 6)
    # Two signals' rows, a line of words for the third, and the packets are what the other one lacks.
    assert sheet.shape[0] - draw_sheet(bare).height == pytest.approx(2 * (row + 12) + 32 + 84 + 60, abs=8)
    assert not (np.asarray(draw_sheet(bare)) == TYPE_COLOURS["B"]).all(-1).any()


def test_signals_are_coloured_like_the_energy_and_those_that_make_it_come_first(view):
    assert list(view.given) == ["vectors", "bits"] and view.missing == {"residual": "none: of this codec"}
    assert np.array_equal(view.heat(3, "vectors"), view.heat(3))  # half as much on a scale half as long
    assert not (view.heat(3, "bits") - colour_map(np.zeros(1))).any()


def test_words_stand_where_a_panel_is_black_and_nowhere_else(view):
    """An anchor in the middle of a clip, the first frame of a shot, has an energy to show."""
    black = replace(view, energy=view.energy * (np.arange(6) > 0)[:, None, None])
    assert _words(black, "energy", 0) == ("anchor:", "kept whole")
    assert _words(view, "energy", 0) == ()
    assert _words(view, "bits", 1) == ("zero", "everywhere")


def test_moments_are_one_picture_a_frame_with_even_sides(view):
    pictures = list(draw_moments(view, panel_width=101))
    assert len(pictures) == 6 and len({picture.size for picture in pictures}) == 1
    assert all(side % 2 == 0 for side in pictures[0].size)
    assert np.any(np.asarray(pictures[0]) != np.asarray(pictures[1]))


@pytest.mark.parametrize("panel_width", [300, 480])  # of GIF and of MP4
@pytest.mark.parametrize("grid", [(9, 16), (12, 12), (16, 12), (16, 9), (30, 10)])
def test_no_words_lie_over_others_whatever_the_shape_of_the_clip(grid, panel_width, monkeypatch):
    rng = np.random.default_rng(0)
    energy = rng.random((3, *grid)).astype(np.float32)
    names = ("vectors", "residual", "compensated", "difference", "bits")
    whole = np.argwhere(np.ones((1, *grid), bool))
    view = ClipView(
        np.zeros((3, 8 * grid[0], 8 * grid[1], 3), np.uint8),
        energy,
        whole,
        np.array([0.0, 10.0, 20.25]),
        list("IPB"),
        title="a-clip-with-a-rather-long-name-of-its-own.mp4",
        figures=(("of the patches", "12.5 %"), ("frames sampled", "64"), ("energy", "vectors+residual")),
        signals=dict.fromkeys(names, energy),
        weights={"vectors": 1.0, "compensated": 0.5},
    )
    boxes = []

    def write(draw, place, words, size, fill, anchor):
        if words:
            boxes.append((draw.textbbox(place, words, font=font_of(size), anchor=anchor), words))

    monkeypatch.setattr(moments, "draw_text", write)
    *_, last = draw_moments(view, panel_width)
    of_a_frame = (len(boxes) - 2) // 3
    ground, a_frame = boxes[:2], boxes[-of_a_frame:]
    assert {"kept", "last seen 20.25 s ago", "compensated"} <= {words for _, words in a_frame}
    for (one, its), (other, others) in itertools.combinations([*ground, *a_frame], 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (its, others)
    for (left, top, right, bottom), words in [*ground, *a_frame]:
        assert left >= 0 and top >= 0 and right <= last.width and bottom <= last.height, words


def test_moments_point_at_the_packet_that_is_shown(view):
    width = next(draw_moments(view)).width
    axis = TimeAxis(view, 28, width - 28)
    for t, picture in enumerate(draw_moments(view)):
        # Above the bars, where nothing but the pointer is, it is the only bright thing.
        pixels = (np.asarray(picture) == INK).all(-1)
        pointer = np.flatnonzero(pixels[-100:].sum(0) > 20)
        assert len(pointer) and abs(pointer.mean() - axis.middle(t)) < 2


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4", ".PNG"])
def test_the_suffix_names_the_kind(view, tmp_path, suffix):
    path = tmp_path / "new" / f"picture{suffix}"
    seen = []
    save(view, path, lambda pictures, total: (seen.append(total), pictures)[1])
    if suffix == ".mp4":
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == 6 and frames[-1].time == pytest.approx(2.5, abs=0.05)
    else:
        with Image.open(path) as image:
            assert image.format == suffix[1:].upper()
            assert getattr(image, "n_frames", 1) == (6 if suffix == ".gif" else 1)
    assert seen == ([] if suffix.lower() == ".png" else [6])


@pytest.mark.parametrize("name", ["picture.bmp", "picture"])
def test_other_suffixes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=r"\.png, \.gif or \.mp4, found"):
        check_suffix(name)


def test_a_clip_of_one_frame_and_a_portrait_clip_can_be_drawn(view, tmp_path):
    one = ClipView(view.frames[:1], view.energy[:1], view.positions[:12], view.timestamps[:1])
    for suffix in (".png", ".gif", ".mp4"):
        save(one, tmp_path / f"one{suffix}")
    tall = ClipView(
        view.frames.swapaxes(1, 2), view.energy.swapaxes(1, 2), view.positions[:1], view.timestamps
    )
    assert draw_sheet(tall).width == 2000


def test_arrays_that_do_not_fit_are_refused(view):
    with pytest.raises(ValueError, match="do not fit"):
        ClipView(view.frames[:5], view.energy, view.positions, view.timestamps)
    with pytest.raises(ValueError, match=r"position \[6, 0, 0\] lies outside the grid of 6 x 3 x 4"):
        ClipView(view.frames, view.energy, np.array([[6, 0, 0]]), view.timestamps)
    with pytest.raises(ValueError, match="2 picture types"):
        ClipView(view.frames, view.energy, view.positions, view.timestamps, ["I", "P"])
    with pytest.raises(ValueError, match=r"bits \(5, 3, 4\) does not fit"):
        ClipView(view.frames, view.energy, view.positions, view.timestamps, signals={"bits": view.energy[:5]})
    with pytest.raises(ValueError, match="3 frames of the stream were sampled, 6 are drawn"):
        packets = Packets(np.arange(9), np.arange(9), ["P"] * 9, np.arange(3))
        ClipView(view.frames, view.energy, view.positions, view.timestamps, packets=packets)
    with pytest.raises(ValueError, match="2 sizes and 3 picture types"):
        Packets(np.arange(3), np.arange(2), ["P"] * 3, np.arange(3))
