"""CLIP's byte-pair tokenizer, read from the `tokenizer` folder of a published pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autotuner.errors import ConfigurationError

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
"""Positions of CLIP's text transformer (Radford et al. 2021, Sec. 2.4), for folders that do not say."""
UNBOUNDED = 10**6
"""A `model_max_length` above it is a stand-in for "not said"."""
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What text is cut into before byte pairs are merged: English endings, words, single digits, runs of anything else."""
INSTALL = "pip install 'diffusion-autotuner[stable-diffusion]'"


class Tokens(NamedTuple):
    """Encoded prompts."""

    ids: np.ndarray
    """int32 (prompts, length): begin, text, end, padding."""
    lost: tuple[str, ...]
    """For each prompt the text that did not fit; empty when all of it did."""


@dataclass(frozen=True)
class Special:
    """A token that stands for no text; found in a prompt as it is written, never cut."""

    content: str
    normalized: bool = False
    """Whether it is looked for after lower-casing."""

    @classmethod
    def read(cls, value: Any) -> Special:
        """From a tokenizer's configuration, where it is a string or a description."""
        if isinstance(value, Mapping):
            return cls(str(value["content"]), bool(value.get("normalized", False)))
        return cls(str(value))


class Tokenizer:
    """Prompts to token ids of fixed length."""

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        begin: Special = Special(BEGIN),
        end: Special = Special(END),
        padding: Special = Special(END),
        unknown: Special = Special(END),
        length: int = LENGTH,
        origin: str = "the given vocabulary",
    ) -> None:
        self.length = length
        for role in (begin, end, padding, unknown):
            if role.content not in vocabulary:
                raise ConfigurationError(
                    f"{origin}: the special token {role.content!r} is not among the vocabulary's {len(vocabulary)}"
                )
        self.begin, self.end, self.padding = (vocabulary[role.content] for role in (begin, end, padding))
        specials = {role.content: role for role in (begin, end, unknown, padding)}
        self._pairs = _byte_pairs(dict(vocabulary), list(merges), unknown.content, list(specials.values()))

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read `vocab.json` and `merges.txt`, or else `tokenizer.json`, and the special tokens beside them.

        Raises ConfigurationError for files that are missing or damaged.
        """
        folder = Path(folder)
        try:
            vocabulary, merges = _vocabulary(folder)
            settings = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
            roles = {"begin": "bos_token", "end": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
            special = {role: Special.read(settings[key]) for role, key in roles.items() if settings.get(key)}
            length = int(settings.get("model_max_length", LENGTH))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{folder}: not a CLIP tokenizer ({error!r}); vocab.json and merges.txt are read"
            ) from None
        length = LENGTH if length > UNBOUNDED else length
        return cls(vocabulary, merges, **special, length=length, origin=str(folder))

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Encode every prompt; what is longer than ``length`` is cut, and told."""
        ids = np.full((len(prompts), self.length), self.padding, np.int32)
        lost = []
        for row, encoded in zip(ids, self._pairs.encode_batch(list(prompts), add_special_tokens=False), strict=True):
            kept = min(len(encoded.ids), self.length - 2)
            row[: kept + 2] = [self.begin, *encoded.ids[:kept], self.end]
            lost.append(self.text(encoded.ids[kept:]))
        return Tokens(ids, tuple(lost))

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, lower case, with a space after each word."""
        return str(self._pairs.decode(list(ids), skip_special_tokens=False)).replace("</w>", " ").strip()


def _byte_pairs(vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: str, specials: list[Special]) -> Any:
    try:
        from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Pairs
    except ImportError:
        raise ConfigurationError(f"the package `tokenizers` is not installed; {INSTALL}") from None
    pairs = Pairs(models.BPE(vocabulary, merges, unk_token=unknown, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    pairs.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    pairs.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    pairs.decoder = decoders.ByteLevel()
    pairs.add_special_tokens([AddedToken(token.content, normalized=token.normalized, special=True) for token in specials])
    return pairs


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if (folder / "vocab.json").exists():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    else:
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        merges = [line.split(" ") if isinstance(line, str) else line for line in model["merges"]]
        vocabulary = model["vocab"]
    return vocabulary, [(first, second) for first, second in merges]


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
