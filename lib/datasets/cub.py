"""CUB-200-2011, photographs of birds, as CMR uses it.

Source: Wah, Branson, Welinder, Perona, Belongie, "The Caltech-UCSD Birds-200-2011 dataset", 2011; annotations and
cameras by Kanazawa et al., ECCV 2018.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lib.datasets.annotated import AnnotatedImages, read_records

KEYPOINT_NAMES = [
    *("Back", "Beak", "Belly", "Breast", "Crown", "FHead", "LEye", "LLeg"),
    *("LWing", "Nape", "REye", "RLeg", "RWing", "Tail", "Throat"),
]
KEYPOINT_PERMUTATION = torch.tensor([1, 2, 3, 4, 5, 6, 11, 12, 13, 10, 7, 8, 9, 14, 15]) - 1
SPLITS = ("train", "val", "test", "testval")
NEEDED = (
    "get the photographs (CUB_200_2011.tgz, vision.caltech.edu/datasets/cub_200_2011, for non-commercial research "
    "and education) and CMR's annotations (its cachedir archive, akanazawa.github.io/cmr), and unpack them into the "
    "root folder as CUB_200_2011/images, cub/data and cub/sfm"
)


class CUB(AnnotatedImages):
    """CUB(root): crops of one split; see `AnnotatedImages` for an item.

    root holds `CUB_200_2011/images/…`, `cub/data/<split>_cub_cleaned.mat` and `cub/sfm/anno_<split>.mat`. CMR's authors
    have removed images with six visible keypoints or fewer. `structure` (15, 3) are CMR's mean keypoints in the
    course's frame, for "train" and "testval" (otherwise None).

    Raises FileNotFoundError, which says what to download and where to put it.
    """

    def __init__(self, root: str | Path, split: str = "train", image_size: int = 256) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; use one of {', '.join(SPLITS)}")
        root = Path(root)
        records, self.structure = read_records(
            root / "cub" / "data" / f"{split}_cub_cleaned.mat",
            root / "cub" / "sfm" / f"anno_{split}.mat",
            root / "CUB_200_2011" / "images",
            NEEDED,
        )
        if not (root / "CUB_200_2011" / "images").is_dir():
            raise FileNotFoundError(f"{root / 'CUB_200_2011' / 'images'} is missing; {NEEDED}")
        super().__init__(records, KEYPOINT_NAMES, KEYPOINT_PERMUTATION, image_size)
