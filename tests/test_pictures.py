"""Pictures in every mode that cameras and tools write: each is 0.75 grey, or upright with a red upper left corner."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lib.datasets.faces import BaselFaces, image_folder
from lib.pictures import read_picture

LEVEL = 0.75
BYTES = np.full((6, 8), round(255 * LEVEL), np.uint8)
WORDS = np.full((6, 8), round(65535 * LEVEL), np.uint16)


def grey(mode: str) -> Image.Image:
    return Image.fromarray(BYTES).convert(mode)


@pytest.mark.parametrize(
    ("picture", "ending"),
    [
        (grey("L"), "png"),
        (grey("L"), "jpg"),
        (grey("RGB"), "bmp"),
        (grey("RGB"), "webp"),
        (grey("RGB"), "tiff"),
        (grey("CMYK"), "jpg"),
        (grey("YCbCr"), "jpg"),
        (grey("P"), "png"),
        (grey("P"), "gif"),
        (grey("LA"), "png"),
        (grey("RGBA"), "png"),
        (Image.fromarray(WORDS), "png"),
        (Image.fromarray(WORDS), "tiff"),
        (Image.fromarray(WORDS), "pgm"),
        (Image.fromarray(WORDS.astype(np.int32)), "tiff"),
        (Image.fromarray(np.full((6, 8), round(LEVEL * (2**31 - 1)), np.int32)), "tiff"),
        (Image.fromarray(np.full((6, 8), LEVEL, np.float32)), "tiff"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_has_its_brightness(tmp_path, picture, ending, channels):
    picture.save(tmp_path / f"a.{ending}")
    read = read_picture(tmp_path / f"a.{ending}", channels=channels)
    assert read.shape == (6, 8, channels) and read.dtype == np.float32
    np.testing.assert_allclose(read, LEVEL, atol=0.01)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_every_kind(tmp_path, kind, channels):
    """Put together by hand, as Pillow writes only grey ones."""
    values = np.broadcast_to(np.array([0.75, 0.5, 0.25, 1.0][:channels]), (6, 8, channels)).copy()
    values[..., -1] = 1 if kind in (4, 6) else values[..., -1]
    rows = np.round(65535 * values).astype(">u2").reshape(6, -1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, kind, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    expected = [0.75, 0.5, 0.25] if kind in (2, 6) else [0.75] * 3
    np.testing.assert_allclose(read_picture(png)[0, 0], expected, atol=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8, 0] = 255
    turned = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in (("a.jpg", {"quality": 100, "subsampling": 0}), ("a.png", {})):
        Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / name, exif=exif, **options)
        np.testing.assert_allclose(read_picture(tmp_path / name), upright / 255, atol=0.1)
        np.testing.assert_allclose(read_picture(tmp_path / name, upright=False), turned / 255, atol=0.1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_shows_the_background(tmp_path, mode):
    layers = np.zeros((4, 4, 4), np.uint8)
    layers[..., 3] = [[0, 0, 128, 255]] * 4
    if mode == "P":
        picture = Image.fromarray(np.array([[0, 0, 1, 1]] * 4, np.uint8)).convert("P")
        picture.putpalette([9, 9, 9, 0, 0, 0])
        picture.info["transparency"] = 0
        expected = [1, 1, 0, 0]
    else:
        picture, expected = Image.fromarray(layers).convert(mode), [1, 1, 0.5, 0]
    picture.save(tmp_path / "a.tiff" if mode == "PA" else tmp_path / "a.png") if mode != "PA" else None
    if mode == "PA":
        Image.fromarray(layers).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_picture(tmp_path / "a.png")[0, :, 0], expected, atol=0.01)
    hidden = read_picture(tmp_path / "a.png", background=None)[0, :, 0]
    np.testing.assert_allclose(hidden, [0.035, 0.035, 0, 0] if mode == "P" else 0, atol=0.01)


def test_of_many_pictures_the_first_is_read(tmp_path):
    frames = [Image.fromarray(BYTES), Image.fromarray(np.zeros_like(BYTES))]
    for ending in ("gif", "tiff", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(read_picture(tmp_path / f"a.{ending}"), LEVEL, atol=0.02)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_text("not found")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(buffer, "PNG")
    (tmp_path / "b.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (tmp_path / "c.png").write_bytes(b"")
    for name in ("a.png", "b.png", "c.png", "d.png"):
        with pytest.raises(OSError, match=rf"{name} cannot be read as a picture") as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    Image.fromarray(np.full((4, 4), 1000.0, np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(ValueError, match=r"depth\.tiff holds floats from 1000 to 1000; scale them"):
        read_picture(tmp_path / "depth.tiff")
    with pytest.raises(OSError, match="the embedded picture cannot be read"):
        read_picture(b"no")


def test_depth_maps_of_16_bits(tmp_path):
    for kind in ("image", "depth"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    Image.new("RGB", (170, 170)).save(tmp_path / "test/image/image_0.png")
    for depth in (np.full((170, 170), 49151, np.uint16), np.full((170, 170), 191, np.uint8)):
        Image.fromarray(depth).save(tmp_path / "test/depth/depth_0.png")
        assert BaselFaces(tmp_path, image_size=8)[0]["depth"].mean().item() == pytest.approx(0.95, abs=1e-3)


def test_a_folder_with_other_things_in_it(tmp_path):
    """Hidden files and other endings are passed over; what should be a picture and is none is named."""
    (tmp_path / "b" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    for name in ("a.JPG", "b/c.png", "b/.ipynb_checkpoints/c-checkpoint.png", "__MACOSX/d.png", "._a.jpg", "e.tiff"):
        with open(tmp_path / name, "wb") as file:
            Image.fromarray(BYTES).save(file, "PNG")
    (tmp_path / "notes.txt").write_text("notes")
    faces = image_folder(tmp_path, 4)
    assert [path.name for path in faces.images] == ["a.JPG", "c.png", "e.tiff"]
    assert torch.stack([item["image"] for item in faces]).shape == (3, 3, 4, 4)
    (tmp_path / "error.jpg").write_text("<html>404</html>")
    (tmp_path / "telephone.HEIC").write_bytes(b"\0")
    with pytest.warns(UserWarning, match=r"left out 2 files .*telephone\.HEIC, error\.jpg.*convert them"):
        assert len(image_folder(tmp_path, 4)) == 3


@pytest.mark.parametrize("size", [0, -3, 2.0, "64", True])
def test_sizes_are_whole_numbers(tmp_path, size):
    Image.fromarray(BYTES).save(tmp_path / "a.png")
    with pytest.raises((TypeError, ValueError), match="image_size must be"):
        image_folder(tmp_path, size)
    with pytest.raises((TypeError, ValueError), match="crop must be"):
        image_folder(tmp_path, 4, crop=size)
    assert image_folder(tmp_path, np.int64(4))[0]["image"].shape == (3, 4, 4)


def test_a_damaged_orientation_is_passed_over(tmp_path, monkeypatch):
    def damaged(picture):
        raise struct.error("required argument is not an integer")

    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg")
    monkeypatch.setattr("lib.pictures.ImageOps.exif_transpose", damaged)
    assert read_picture(tmp_path / "a.jpg").shape == (3, 4, 3)


def test_senseless_exif_does_not_spoil_a_good_picture(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    for number, junk in enumerate((b"Exif\x00\x00junk", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff", b"\x00")):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path, exif=junk)
        assert np.allclose(read_picture(path), pixels / 255, atol=1e-6)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_channels_are_refused(tmp_path, channels):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"channels must be 1 \(grey\) or 3"):
        read_picture(tmp_path / "a.png", channels=channels)
