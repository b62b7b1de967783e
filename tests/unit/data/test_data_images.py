"""Headers: what is read from them, and each fault of an image file."""

import io
import struct
import zlib

import numpy as np
import pytest
import raw_sets
from PIL import Image

from verl_mars.data import images as module
from verl_mars.data.images import encoded_bytes, read_header, training_problem
from verl_mars.errors import SampleError


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def test_an_ordinary_image_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("decoded"))
    for name in ("a.jpg", "a.png"):
        header = read_header(str(raw_sets.picture(tmp_path / name, (70, 50))))
        assert header.size == (70, 50) and header.ordinary and training_problem(header) is None


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif"])
def test_formats_without_a_known_end_are_decoded(tmp_path, suffix):
    path = raw_sets.picture(tmp_path / f"a.{suffix}")
    assert read_header(str(path)).size == (64, 48)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SampleError):
        read_header(str(path))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("left", [0.5, 0.9])
def test_a_cut_off_file_is_found(tmp_path, name, left):
    path = raw_sets.picture(tmp_path / name, (200, 160))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    with pytest.raises(SampleError) as caught:
        read_header(str(path))
    assert caught.value.code in ("truncated_image", "broken_image") and str(path) in str(caught.value)


def test_text_after_the_end_is_no_fault(tmp_path):
    path = raw_sets.picture(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"x" * 5000)
    assert read_header(str(path)).size == (64, 48)


def test_damage_in_the_middle_is_found_by_decoding(tmp_path):
    path = raw_sets.picture(tmp_path / "a.png", (200, 160))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)
    assert read_header(str(path)).size == (200, 160)
    with pytest.raises(SampleError):
        read_header(str(path), decode=True)


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [(b"", "broken_image", "empty"), (b"hello", "broken_image", "no image"), (b"\xff\xd8\xff\xe0", "broken_image", "")],
)
def test_files_that_are_no_images(tmp_path, content, code, says):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(SampleError) as caught:
        read_header(str(path))
    assert caught.value.code == code and says in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    for path, says in ((tmp_path / "no.jpg", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(SampleError, match=says) as caught:
            read_header(str(path))
        assert caught.value.code == "missing_image"


def test_a_decompression_bomb_is_not_opened(tmp_path):
    path = tmp_path / "bomb.png"
    content = bytearray(raw_sets.picture(path).read_bytes())
    for side, opens in ((9_000, True), (9_500, False), (60_000, False)):
        content[16:24] = struct.pack(">II", side, side)  # width and height in the header chunk, then its checksum
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
        if opens:
            assert read_header(str(path)).size == (side, side)
            continue
        with pytest.raises(SampleError) as caught:
            read_header(str(path))
        assert caught.value.code == "bomb"


def test_what_training_would_not_show(tmp_path):
    deep = save(tmp_path / "deep.png", Image.fromarray(np.full((48, 64), 3000, np.uint16)))
    assert training_problem(read_header(deep)).code == "sixteen_bit"
    real = save(tmp_path / "real.tif", Image.fromarray(np.full((48, 64), 0.5, np.float32)))
    assert training_problem(read_header(real)).code == "sixteen_bit"
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "turned.jpg", Image.new("RGB", (64, 48)), exif=exif)
    assert read_header(turned).orientation == 6
    assert training_problem(read_header(turned)).code == "exif"
    narrow = save(tmp_path / "narrow.png", Image.new("RGB", (2010, 10)))
    assert training_problem(read_header(narrow)).code == "aspect_ratio"
    assert training_problem(read_header(save(tmp_path / "wide.png", Image.new("RGB", (2000, 10))))) is None
    moving = tmp_path / "moving.gif"
    frames = [Image.new("L", (20, 20), level) for level in (0, 128)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    assert training_problem(read_header(str(moving))).code == "frames"


def test_bytes_and_data_texts(tmp_path):
    import base64

    content = raw_sets.picture(tmp_path / "a.png").read_bytes()
    assert read_header(content).size == (64, 48)
    text = "data:image/png;base64," + base64.b64encode(content).decode()
    assert encoded_bytes(text) == content
    for wrong in ("data:image/png,xx", "data:image/png;base64,?!", "data:image/png;base64,abc"):
        with pytest.raises(SampleError):
            encoded_bytes(wrong)


def test_a_broken_exif_entry_turns_nothing():
    stream = io.BytesIO()
    Image.new("RGB", (20, 10)).save(stream, "JPEG", exif=b"Exif\x00\x00garbage")
    assert read_header(stream.getvalue()).orientation == 1


def jpegs():
    """JPEGs of every kind that begins in a way of its own."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    turned, long = Image.Exif(), Image.Exif()
    turned[0x0112], long[0x0112], long[0x010E] = 6, 3, "x" * 5000
    kinds = {
        "plain": (noise, {}),
        "other size": (noise.resize((50, 40)), {}),
        "gray": (noise.convert("L"), {}),
        "four bands": (noise.convert("CMYK"), {}),
        "progressive": (noise, {"progressive": True}),
        "own tables": (noise, {"optimize": True, "quality": 30}),
        "comment": (noise, {"comment": b"\xff\xda\x00\x02"}),
        "profile": (noise, {"icc_profile": bytes(600)}),
        "turned": (noise, {"exif": turned}),
        "long start": (noise, {"exif": long}),
    }
    for name, (image, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **options)
        yield name, buffer.getvalue()
    frames = io.BytesIO()
    noise.save(frames, "MPO", save_all=True, append_images=[noise])
    yield "frames", frames.getvalue()
    plain = io.BytesIO()
    noise.save(plain, "JPEG")
    yield "padded", plain.getvalue().replace(b"\xff\xdb", b"\xff\xff\xdb", 1)
    yield "two starts", plain.getvalue()[:2] + plain.getvalue()


JPEGS = dict(jpegs())


@pytest.mark.parametrize("kind", JPEGS)
def test_a_known_beginning_says_what_pillow_says_of_the_whole_file(kind, monkeypatch):
    content = JPEGS[kind]
    twice = read_header(content), read_header(content)
    shorter = [answer(content[:length]) for length in range(0, len(content), 37)]
    monkeypatch.setattr(module, "_known_header", lambda file: None)
    assert twice == (read_header(content),) * 2
    assert shorter == [answer(content[:length]) for length in range(0, len(content), 37)]


def answer(content):
    try:
        return read_header(content)
    except SampleError as error:
        return error.code, str(error)


def test_pillow_is_asked_once_for_pictures_of_one_camera(monkeypatch):
    module._header_of_start.cache_clear()
    opened = []
    monkeypatch.setattr(
        Image, "open", lambda *args, plain=Image.open, **kwargs: opened.append(1) or plain(*args, **kwargs)
    )
    for seed in range(5):
        buffer = io.BytesIO()
        raw = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(raw).save(buffer, "JPEG")
        assert read_header(buffer.getvalue()).size == (64, 48)
        with pytest.raises(SampleError, match="truncated"):
            read_header(buffer.getvalue()[:-200])  # the end of each file is looked at all the same
    assert len(opened) == 1 + 5  # five times to decode what was cut off


def test_a_bomb_is_none_at_the_second_time_too():
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "JPEG")
    content = small.getvalue()
    frame = content.index(b"\xff\xc0")
    bomb = content[: frame + 5] + struct.pack(">HH", 60_000, 60_000) + content[frame + 9 :]
    for _ in range(2):
        with pytest.raises(SampleError, match="pixels") as caught:
            read_header(bomb)
        assert caught.value.code == "bomb"
