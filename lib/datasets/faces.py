"""Pictures of faces: CelebA, the synthetic Basel faces of Unsup3D, cats, any folder, and a hundred small real ones.

The layouts are those of Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric Deformable 3D Objects
from Images in the Wild", CVPR 2020. An item is a dict with `image` (3, S, S) in [0, 1] and, if the data set has it,
`depth` (S, S) in [0.9, 1.1]. So `training.fit` takes these data sets as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lib.checks import whole_number
from lib.datasets import photographs
from lib.pictures import read_picture

SPLITS = ("train", "val", "test")
SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pnm", ".tga", ".jp2", ".avif"),
}
# Pictures that Pillow does not read: cameras' raw files, and what telephones write unless told otherwise.
UNREAD = {
    ".heic",
    ".heif",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raf",
    ".orf",
    ".rw2",
    ".exr",
    ".hdr",
    ".svg",
    ".psd",
}
CROP = 170  # pixels of the middle of a picture that show the face, in the synthetic faces and the cats
NEAREST, FARTHEST = 0.9, 1.1

NEEDED = (
    "for CelebA get img_celeba (mmlab.ie.cuhk.edu.hk/projects/CelebA.html, for non-commercial research) and the boxes "
    "celeba_crop_bbox.txt of Unsup3D's release, and put both into data/faces/celeba; for the synthetic Basel faces get "
    "the synface data of that release (github.com/elliottwu/unsup3d, for research), and unpack its train, val and "
    "test, each with image and depth, into data/faces/synface"
)


class FaceImages(Dataset):
    """Square pictures from files, as dicts of image and, if known, depth (`lib.datasets.KEYS`).

    images: one file per item. depths: the file of its depth map (white is near), or None. crop: the side in pixels of
    the middle square that is kept, or None for the largest. boxes: (x, y, width, height) in pixels per item, instead
    of `crop`; if a box leaves the picture, the picture's border pixels are repeated.

    Pictures are read as `pictures.read_picture` says: turned upright by their EXIF orientation, 16 bits a channel
    scaled by their range, palettes and CMYK converted to RGB, grey to three equal channels. What is transparent shows
    white in a picture, and black, far away, in a depth map.
    """

    def __init__(
        self,
        images: Sequence[Path],
        image_size: int,
        *,
        crop: int | None = None,
        depths: Sequence[Path] | None = None,
        boxes: Sequence[tuple[float, float, float, float]] | None = None,
    ) -> None:
        self.images, self.depths, self.boxes = list(images), depths, boxes
        self.image_size = whole_number("image_size", image_size)
        self.crop = None if crop is None else whole_number("crop", crop)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        box = self.boxes[index] if self.boxes is not None else None
        item = {"image": self._read(self.images[index], 3, 1.0, box).clamp(0, 1)}
        if self.depths is not None:
            nearness = self._read(self.depths[index], 1, 0.0, box)[0].clamp(0, 1)
            item["depth"] = NEAREST + (FARTHEST - NEAREST) * (1 - nearness)
        return item

    def stack(self, count: int | None = None) -> dict[str, Tensor]:
        """Stack the first `count` items (by default all) into one dict of tensors."""
        count = len(self) if count is None else whole_number("count", count)
        items = [self[index] for index in range(min(len(self), count))]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def _read(self, path: Path, channels: int, background: float, box) -> Float[Tensor, "C S S"]:
        picture = torch.from_numpy(read_picture(path, channels=channels, background=background)).permute(2, 0, 1)
        picture = cut(picture, box) if box is not None else cut_middle(picture, self.crop)
        size = (self.image_size, self.image_size)
        return torch.nn.functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


class CelebA(FaceImages):
    """CelebA(root, split): photographs of celebrities, cropped to the head.

    root holds either `celeba_cropped/{train,val,test}`, which Unsup3D's script makes, or the originals `img_celeba`
    with `celeba_crop_bbox.txt`, whose rows are: file name, split (0, 1, 2), x, y, width, height.

    Raises FileNotFoundError, which says what to download and where to put it; ValueError for a damaged row.
    """

    def __init__(self, root: str | Path, split: str = "train", image_size: int = 64) -> None:
        _check_split(split)
        root = Path(root)
        cropped = root / "celeba_cropped" / split
        if cropped.is_dir():
            super().__init__(_pictures(cropped, NEEDED), image_size)
            return
        listing = root / "celeba_crop_bbox.txt"
        for needed in (root / "img_celeba", listing):
            if not needed.exists():
                raise FileNotFoundError(f"{needed} is missing; {NEEDED}")
        images, boxes = [], []
        for number, row in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            name, *numbers = row.split() or [""]
            try:
                belongs, x, y, width, height = map(int, numbers)
                chosen = dict(enumerate(SPLITS))[belongs] == split
            except (ValueError, KeyError):
                if number == 1 or not name:  # the heading, or an empty last line
                    continue
                raise ValueError(f"{listing}, row {number}: {row!r} is not 'name split x y w h'; get it anew") from None
            if chosen:
                images.append(root / "img_celeba" / name)
                boxes.append((x, y, width, height))
        if not images:
            raise ValueError(f"{listing} has no picture of the split {split!r}; get it anew")
        super().__init__(images, image_size, boxes=boxes)


class BaselFaces(FaceImages):
    """BaselFaces(root, split): Unsup3D's synthetic faces with depth, for evaluation.

    root holds `{train,val,test}/{image,depth}`; the name of a depth map is its picture's name with "depth" instead of
    "image". Depth = 0.9 + 0.2 (1 − brightness). Outside of the face the depth map is black: depth 1.1.

    Raises FileNotFoundError, which says what to download and where to put it.
    """

    def __init__(self, root: str | Path, split: str = "test", image_size: int = 64) -> None:
        _check_split(split)
        folder = Path(root) / split
        images = _pictures(folder / "image", NEEDED)
        depths = [folder / "depth" / path.name.replace("image", "depth") for path in images]
        for depth in depths:
            if not depth.exists():
                raise FileNotFoundError(f"{depth} is missing; {NEEDED}")
        super().__init__(images, image_size, crop=CROP, depths=depths)


def image_folder(root: str | Path, image_size: int = 64, *, crop: int | None = None) -> FaceImages:
    """All pictures in a folder and the folders below it, in the order of their names; see `FaceImages` for an item.

    Left out are hidden files, such as those that macOS adds to archives, and, with a warning, files that are no
    pictures in spite of their ending, and pictures in formats that are not read (HEIC, raw files of cameras).

    crop: the side in pixels of the middle square to keep; by default the largest. For Unsup3D's cats (a folder
    `cat_combined`, from the cat head data sets of Zhang et al., 2008, and Parkhi et al., 2012) use `crop=CROP`.

    Raises FileNotFoundError if there is no picture.
    """
    return FaceImages(_pictures(Path(root), "put pictures (jpg or png) there", look_inside=True), image_size, crop=crop)


def real_faces(image_size: int = 32) -> Float[Tensor, "100 3 S S"]:
    """Load scikit-image's hundred photographs (Labelled Faces in the Wild), enlarged from 25 × 25 pixels, grey."""
    small = photographs.faces()[:, None]
    large = torch.nn.functional.interpolate(small, (image_size, image_size), mode="bicubic", antialias=True)
    return large.clamp(0, 1).expand(-1, 3, -1, -1).contiguous()


def cut(picture: Float[Tensor, "C H W"], box: tuple[float, float, float, float]) -> Float[Tensor, "C h w"]:
    """Cut a box (x, y, width, height), in pixels, out of a picture; beyond the border its last pixels repeat.

    Raises ValueError for a box that is empty or wholly outside.
    """
    height, width = picture.shape[-2:]
    left, top = round(box[0]), round(box[1])
    right, bottom = left + round(box[2]), top + round(box[3])
    if right <= left or bottom <= top or right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise ValueError(f"box must overlap the picture of {width} × {height} pixels, got {box}")
    rows = torch.arange(top, bottom).clamp(0, height - 1)
    columns = torch.arange(left, right).clamp(0, width - 1)
    return picture[:, rows[:, None], columns]


def cut_middle(picture: Float[Tensor, "C H W"], side: int | None = None) -> Float[Tensor, "C S S"]:
    """Cut out the middle square of a picture, `side` pixels wide, or as wide as possible if that is less or None."""
    height, width = picture.shape[-2:]
    side = min(height, width, side or height)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, top : top + side, left : left + side]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(map(repr, SPLITS))}")


def _pictures(folder: Path, needed: str, look_inside: bool = False) -> list[Path]:
    """The pictures below a folder; with `look_inside` only those whose first bytes are really a picture's."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; {needed}")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path.relative_to(folder))]
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    left_out = [path for path in files if path.suffix.lower() in UNREAD]
    if look_inside:
        damaged = {path for path in paths if not _opens(path)}
        paths = [path for path in paths if path not in damaged]
        left_out += sorted(damaged)
    if left_out:
        names = ", ".join(path.name for path in left_out[:3]) + ("" if len(left_out) <= 3 else ", …")
        remedy = "convert them to jpg or png, or remove them"
        warnings.warn(f"{folder}: left out {len(left_out)} files that cannot be read ({names}); {remedy}", stacklevel=3)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no picture; {needed}")
    return paths


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _opens(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
