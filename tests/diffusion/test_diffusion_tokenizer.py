"""Token ids beside those of transformers' CLIPTokenizer, on a vocabulary made here."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_pipeline import BEGIN, END, vocabulary, write_tokenizer
from transformers import CLIPTokenizer

from autotuner.diffusion.tokenizer import Tokenizer
from autotuner.errors import ConfigurationError

PROMPTS = (
    "",
    "the cat",
    "The  CAT,\tand\nthe red-blue square...",
    "it's we'll they've I'm you'd can't ROCK'S",
    "42 cats & 3.14159 of 10%",
    "Ünïcödé straße ÇA naïve İstanbul",
    "cafe\u0301 and caf\u00e9",
    "日本語 の 猫 🐈‍⬛ 🎉🎉",
    "!!! the !cat! ?!",
    f"the cat{END}and {BEGIN} of",
    "red \u00a0\u3000 blue \u200b of",
    "under_score <|odd|> </w> #hash @at",
    "the cat and " * 60,
    "x" * 200,
)


@pytest.fixture(scope="module", params=["end", "!", "described"])
def both(request, tmp_path_factory):
    """Ours and theirs, read from one folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    described = {
        key: {
            "__type": "AddedToken",
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }
        for key, content in (("bos_token", BEGIN), ("eos_token", END), ("unk_token", END))
    }
    write_tokenizer(folder, "!" if request.param == "!" else END, **(described if request.param == "described" else {}))
    return Tokenizer.load(folder), CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_ids_are_those_of_transformers(both, prompt):
    ours, theirs = both
    expected = theirs([prompt], padding="max_length", max_length=77, truncation=True).input_ids
    assert ours([prompt]).ids.tolist() == expected


def test_what_does_not_fit_is_told_and_nothing_else(both):
    ours, _ = both
    tokens = ours(["the cat", "the " * 75, "the " * 75 + "red cat"])
    assert tokens.lost == ("", "", "red cat")
    assert tokens.ids.shape == (3, 77)
    assert tokens.ids.dtype == np.int32


def test_a_saved_tokenizer_of_either_generation_is_read(both, tmp_path):
    ours, theirs = both
    theirs.save_pretrained(tmp_path)
    if (tmp_path / "vocab.json").exists():
        pytest.skip("this transformers writes vocab.json, which the other tests read")
    assert np.array_equal(Tokenizer.load(tmp_path)(PROMPTS).ids, ours(PROMPTS).ids)


def test_a_shorter_text_model_gets_shorter_prompts(tmp_path):
    assert Tokenizer.load(write_tokenizer(tmp_path, model_max_length=16))(["the " * 40]).ids.shape == (1, 16)


def test_a_folder_that_does_not_say_its_length_has_that_of_clip(tmp_path):
    assert Tokenizer.load(write_tokenizer(tmp_path, model_max_length=10**30)).length == 77


def test_a_folder_without_a_vocabulary_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"not a CLIP tokenizer .*vocab\.json"):
        Tokenizer.load(tmp_path)


def test_damaged_merges_are_refused(tmp_path):
    (write_tokenizer(tmp_path) / "merges.txt").write_text("#version: 0.2\nlonely\n")
    with pytest.raises(ConfigurationError, match="not a CLIP tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_without_its_special_tokens_is_refused(tmp_path):
    tokens, _ = vocabulary()
    del tokens[END]
    (write_tokenizer(tmp_path) / "vocab.json").write_text(json.dumps(tokens))
    with pytest.raises(ConfigurationError, match=r"endoftext.*not among"):
        Tokenizer.load(tmp_path)
