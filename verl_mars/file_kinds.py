"""What a file is that was taken for another: named by its first bytes, with the cure."""

_STARTS = (
    (b"PAR1", "a Parquet file: `verl-mars data convert verl_parquet` reads the format"),
    (b"ARROW1", "an Arrow file: `verl-mars data convert hf_datasets` reads its folder"),
    (b"\x1f\x8b", "gzip-compressed: `gunzip` it first"),
    (b"BZh", "bzip2-compressed: `bunzip2` it first"),
    (b"\xfd7zXZ\0", "xz-compressed: `unxz` it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed: `unzstd` it first"),
    (b"PK\x03\x04", "a ZIP archive: `unzip` it first"),
    (b"\xff\xfe\0\0", "UTF-32 text: `iconv -f UTF-32 -t UTF-8` makes it UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32 text: `iconv -f UTF-32 -t UTF-8` makes it UTF-8"),
    (b"\xff\xfe", "UTF-16 text: `iconv -f UTF-16 -t UTF-8` makes it UTF-8"),
    (b"\xfe\xff", "UTF-16 text: `iconv -f UTF-16 -t UTF-8` makes it UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: `git lfs pull` fetches it"),
    (b"\x93NUMPY", "a NumPy array: name it .npy, and it is read as depth or intensity"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image: name it .exr, and it is read as depth or intensity (extra `exr`)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF: render its pages to PNG files, one source a page"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"heim", b"heis")
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml")


def kind_of(head: bytes) -> str | None:
    """What a file is by its first bytes (64 will do), and what to do about it; None: unknown."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[4:8] == b"ftyp":
        if head[8:12] in _HEIF:
            return "a HEIC image, which Pillow does not read: convert it to JPEG or PNG (`heif-convert`)"
        return "an AVIF image" if head[8:12] in (b"avif", b"avis") else "a video: extract its frames"
    if len(head) > 3 and head[0] and not head[1] and head[2] and not head[3]:
        return "UTF-16 text without a byte order mark: `iconv -f UTF-16LE -t UTF-8` makes it UTF-8"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_HTML):
        return "an HTML or XML page, perhaps an error message that was downloaded in its place"
    if text.startswith((b"{", b"[")):
        return "JSON text"
    return None
