"""Depth maps and other odd images become ordinary ones; ordinary ones stay as they are."""

import numpy as np
import pytest
import raw_sets
from PIL import Image

from verl_mars.data.depth import decode_spatialbot, encode, millimetres, stretch
from verl_mars.data.images import read_header, training_problem
from verl_mars.data.render import Renderer
from verl_mars.data.sample import ImageRef
from verl_mars.errors import SampleError


@pytest.fixture
def prepare(tmp_path):
    def run(path, source="rgb", encoding="turbo", **ref):
        return Renderer(tmp_path / "images", encoding).prepare(str(path), ImageRef(str(path), **ref), source)

    return run


# Depth


def test_spatialbots_code_is_lossless_for_every_millimetre():
    depth = np.arange(65_536, dtype=np.float64).reshape(256, 256)
    picture, scale = encode(depth, "spatialbot")
    assert np.array_equal(decode_spatialbot(picture), depth)
    assert scale["encoding"] == "spatialbot"
    d = 5_077  # by the formula of the paper's code: R = 4 (d // 1024), G = 8 (d // 32) mod 256, B = 8 (d % 32)
    assert picture[d // 256, d % 256].tolist() == [d // 1024 * 4, d // 32 * 8 % 256, d % 32 * 8]


def test_sunrgbds_rotation_is_undone_and_cut_at_eight_metres():
    true = np.array([[1, 500, 2345, 7999], [8000, 8001, 60_000, 0]], np.uint16)
    stored = (true << np.uint16(3)) | (true >> np.uint16(13))
    assert millimetres(stored, "sunrgbd").tolist() == [[1, 500, 2345, 7999], [8000, 8000, 8000, 0]]


def test_what_was_not_measured_is_zero():
    raw = np.array([[np.nan, np.inf, -1.0, 0.0, 1.5]])
    assert millimetres(raw, "m").tolist() == [[0, 0, 0, 0, 1500]]


@pytest.mark.parametrize(
    ("raw", "unit", "code"),
    [
        (np.zeros((4, 4), np.uint16), "mm", "empty_depth"),
        (np.full((4, 4), np.nan), "m", "empty_depth"),
        (np.ones((4, 4, 3)), "mm", "depth"),
        (np.ones((4, 4)), "feet", "depth"),
    ],
)
def test_depth_that_cannot_be_shown(raw, unit, code):
    with pytest.raises(SampleError) as caught:
        millimetres(raw, unit)
    assert caught.value.code == code


def test_near_is_warm_far_is_cold_and_holes_are_black():
    depth = np.geomspace(500, 8000, 100)[None, :].repeat(10, 0)
    depth[0, 0] = 0
    picture, scale = encode(depth, "turbo")
    red, _, blue = picture[5].astype(int).T
    assert red[:20].mean() > blue[:20].mean() + 80 and blue[-50:].mean() > red[-50:].mean() + 20
    assert picture[0, 0].tolist() == [0, 0, 0] and picture[1:].any(axis=-1).all()
    assert 480 < scale["near"] < 700 and 6000 < scale["far"] <= 8000 and scale["measured"] == 0.999


def test_gray_is_bright_where_it_is_near_and_inverse_in_depth():
    depth = np.linspace(1000, 4000, 50)[None, :].repeat(4, 0)
    picture, scale = encode(depth, "gray")
    levels = picture[0].astype(float)
    assert (np.diff(levels) <= 0).all()
    inverse = np.clip((1 / depth[0] - 1 / scale["far"]) / (1 / scale["near"] - 1 / scale["far"]), 0, 1)
    assert np.abs(levels - 1 - 254 * inverse).max() < 1  # the scale in the row reads the picture


def test_one_depth_everywhere_and_depth_beyond_the_code():
    assert len(np.unique(encode(np.full((3, 3), 900.0), "gray")[0])) == 1
    with pytest.raises(SampleError, match="65535"):
        encode(np.full((3, 3), 70_000.0), "spatialbot")


def test_intensities_are_stretched():
    raw = np.arange(10_000, 20_000, dtype=np.uint16).reshape(100, 100)
    picture, scale = stretch(raw)
    assert picture.min() == 0 and picture.max() == 255 and scale["low"] < scale["high"]
    assert len(np.unique(stretch(np.full((3, 3), 5, np.uint16))[0])) == 1
    with pytest.raises(SampleError):
        stretch(np.full((3, 3), np.nan))


# Files


def test_ordinary_files_are_not_touched(tmp_path, prepare):
    for name in ("a.jpg", "b.png"):
        path = raw_sets.picture(tmp_path / name)
        prepared = prepare(path)
        assert prepared.path == str(path) and prepared.size == (64, 48) and prepared.note == {}
    gray = raw_sets.picture(tmp_path / "c.png", gray=True)
    assert prepare(gray, source="depth", kind="depth").path == str(gray)  # 8 bits: rendered by somebody else
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("encoding", ["turbo", "gray", "spatialbot"])
def test_deep_files_become_ordinary_ones(tmp_path, prepare, encoding):
    path = raw_sets.depth(tmp_path / "d.png")
    assert training_problem(read_header(str(path))).code == "sixteen_bit"
    prepared = prepare(path, source="depth", encoding=encoding)
    header = read_header(prepared.path)
    assert header.ordinary and training_problem(header) is None and header.size == (64, 48)
    assert prepared.note["encoding"] == encoding and prepared.note["from"] == str(path)
    assert len(np.unique(np.asarray(Image.open(prepared.path).convert("L")))) > 20  # and not one white area


def test_deep_files_of_other_sources_are_stretched(tmp_path, prepare):
    path = raw_sets.depth(tmp_path / "thermal.png")
    assert prepare(path, source="thermal").note["encoding"] == "stretch"
    assert prepare(path, source="thermal", kind="depth").note["encoding"] == "turbo"
    assert prepare(path, source="depth", kind="intensity").note["encoding"] == "stretch"


def test_float_tiff_in_metres(tmp_path, prepare):
    path = tmp_path / "depth.tif"
    Image.fromarray(np.linspace(0.5, 6, 48 * 64, dtype=np.float32).reshape(48, 64)).save(path)
    note = prepare(path, source="depth", unit="m").note
    assert 500 < note["near"] < 700 and 5000 < note["far"] < 6001


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "1", "YCbCr"])
def test_other_modes_become_rgb_or_gray(tmp_path, prepare, mode):
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    path = tmp_path / f"a.{suffix}"
    raw_sets.picture(tmp_path / "rgb.png")
    Image.open(tmp_path / "rgb.png").convert(mode).save(path)
    prepared = prepare(path)
    if mode == "YCbCr":
        assert prepared.path == str(path)  # an ordinary JPEG
        return
    assert prepared.path != str(path) and read_header(prepared.path).ordinary
    assert prepared.note["mode"] == mode
    assert prepared.note.get("bands") == {"RGBA": None, "CMYK": "CMYK"}.get(mode)


def test_transparent_parts_become_white_as_on_verls_way(tmp_path, prepare):
    layer = np.zeros((48, 64, 4), np.uint8)
    layer[:, :32] = (10, 20, 30, 255)
    Image.fromarray(layer).save(tmp_path / "a.png")
    shown = np.asarray(Image.open(prepare(tmp_path / "a.png").path))
    assert shown[0, 0].tolist() == [10, 20, 30] and shown[0, 63].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_is_made_upright_and_its_boxes_move_along(tmp_path, prepare, orientation):
    from PIL import ImageOps

    box = (10, 5, 30, 17)
    upright = Image.new("RGB", (64, 48), (0, 0, 0))
    upright.paste((255, 255, 255), box)
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = back
    stored = ImageOps.exif_transpose(_with_exif(upright, exif))
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    stored.save(path, exif=exif)

    prepared = prepare(path)
    shown = np.asarray(Image.open(prepared.path).convert("L"))
    assert prepared.size == (64, 48) and np.array_equal(shown > 128, np.asarray(upright.convert("L")) > 128)
    raw = np.asarray(Image.open(path).convert("L")) > 128
    ys, xs = np.nonzero(raw)
    on_stored = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    if stored.size != (64, 48):
        assert prepared.move_box(on_stored, stored.size) == box  # the annotation was made on the stored pixels
        assert prepared.move_box(box, (64, 48)) == box  # the annotation was made on the upright picture
    with pytest.raises(SampleError) as caught:
        prepared.move_box(box, None)
    assert caught.value.code == "exif"


def _with_exif(image, exif):
    import io

    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    return Image.open(io.BytesIO(stream.getvalue()))


def test_a_border_is_cut_off_and_boxes_move_along(tmp_path, prepare):
    path = tmp_path / "bordered.jpg"  # DroneVehicle's files have a white border of 100 pixels, here 10
    inner = Image.open(raw_sets.picture(tmp_path / "inner.jpg", (64, 51)))
    bordered = Image.new("RGB", (84, 71), (255, 255, 255))
    bordered.paste(inner, (10, 10))
    bordered.save(path, quality=95)
    prepared = prepare(path, crop=(10, 10, 74, 61))
    assert prepared.size == (64, 51)
    assert np.asarray(Image.open(prepared.path)).max() < 250
    assert prepared.move_box((20, 15, 40, 30), (84, 71)) == (10, 5, 30, 20)
    assert prepared.move_box((5, 5, 40, 30), None) == (0, 0, 30, 20)
    x1, y1, x2, y2 = prepared.move_box((0, 0, 8, 8), None)
    assert x1 == x2 or y1 == y2  # nothing is left of it: the row is refused as one with an empty box
    with pytest.raises(SampleError):
        prepare(path, crop=(10, 10, 90, 61))


def test_an_annotation_of_another_size_is_refused(tmp_path, prepare):
    prepared = prepare(raw_sets.picture(tmp_path / "a.jpg"))
    assert prepared.move_box((1, 2, 3, 4), (64, 48)) == (1, 2, 3, 4)
    with pytest.raises(SampleError) as caught:
        prepared.move_box((1, 2, 3, 4), (128, 96))
    assert caught.value.code == "size_mismatch"


def test_several_frames_are_refused(tmp_path, prepare):
    frames = [Image.new("L", (20, 20), level) for level in (0, 128)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(SampleError) as caught:
        prepare(tmp_path / "a.gif")
    assert caught.value.code == "frames"


def test_the_same_input_gives_the_same_file_and_other_settings_another(tmp_path, prepare):
    path = raw_sets.depth(tmp_path / "d.png")
    first = prepare(path, source="depth")
    content = (tmp_path / "images" / first.path.rsplit("/")[-1]).read_bytes()
    again = prepare(path, source="depth")
    assert again.path == first.path
    (tmp_path / "images" / first.path.rsplit("/")[-1]).unlink()
    prepare(path, source="depth")
    assert (tmp_path / "images" / first.path.rsplit("/")[-1]).read_bytes() == content
    others = {prepare(path, source="depth", **change).path for change in ({"encoding": "gray"}, {"unit": "m"})}
    assert first.path not in others and len(others) == 2
    assert not list((tmp_path / "images").glob("*.tmp"))
