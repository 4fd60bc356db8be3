"""Image datasets: found on disk or downloaded with a pinned checksum, resized once per resolution, ordered by a seed."""

from autotuner.diffusion.data.area import resize
from autotuner.diffusion.data.augment import Augment
from autotuner.diffusion.data.buckets import BucketedDataset, read_buckets
from autotuner.diffusion.data.dataset import HELD_OUT, Batch, Dataset
from autotuner.diffusion.data.digits import digits
from autotuner.diffusion.data.emoji import read_emoji
from autotuner.diffusion.data.fashion import FASHION_DIRECTORIES, download_fashion
from autotuner.diffusion.data.find import find
from autotuner.diffusion.data.folder import read_folder
from autotuner.diffusion.data.hub import read_hub
from autotuner.diffusion.data.idx import parse_idx, read_idx_directory
from autotuner.diffusion.data.prefetch import Inline, Prefetch

__all__ = [
    "FASHION_DIRECTORIES",
    "HELD_OUT",
    "Augment",
    "Batch",
    "BucketedDataset",
    "Dataset",
    "Inline",
    "Prefetch",
    "digits",
    "download_fashion",
    "find",
    "parse_idx",
    "read_buckets",
    "read_emoji",
    "read_folder",
    "read_hub",
    "read_idx_directory",
    "resize",
]
