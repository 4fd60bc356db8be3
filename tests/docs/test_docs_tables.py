"""The documents say what the code does: generated tables, byte offsets, links."""

from __future__ import annotations

import importlib.util
import re
import struct
from pathlib import Path
from zlib import crc32

import pytest

from autotuner.hook.page import PageWriter, create_page
from autotuner.hook.ring import RingWriter
from autotuner.messages import MODES, PROTOCOL_VERSION, Sample

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"])


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["knobs.md", "protocol.md", "engine.md", "daemon.md", "adapters.md"])
def test_a_generated_table_is_the_one_in_the_page(page):
    generate = generator()
    assert (ROOT / "docs" / page).read_text() == generate.generated(page), "run: python docs/generate.py"


def test_every_record_of_the_protocol_is_documented():
    from autotuner.hook.record import _KINDS

    assert {kind for _, kind, _, _ in generator().RECORDS} == set(_KINDS)
    assert all(layout is _KINDS[kind][0] for _, kind, layout, _ in generator().RECORDS)


def test_the_ring_has_its_fields_where_the_page_says(tmp_path):
    ring = RingWriter(tmp_path / "ring", capacity=4)
    ring.sample(7, 1.5, 0.25, 64, 0.1, 0, 0, 99, 3, 1, 4)
    data = (tmp_path / "ring").read_bytes()
    assert data[:8] == b"ATRING1\0"
    assert struct.unpack_from("<III", data, 8) == (PROTOCOL_VERSION, 128, 4)
    assert struct.unpack_from("<I", data, 28) == (crc32(data[:28]),)
    record = data[128 + 128 : 128 + 256]
    assert struct.unpack_from("<QHH", record) == (1, 1, PROTOCOL_VERSION)
    assert struct.unpack_from("<d", record, 28) == (0.25,)
    assert struct.unpack_from("<IHH", record, 76) == (3, 1, 4)
    assert struct.unpack_from("<IQ", record, 116) == (crc32(record[: 12 + Sample.LAYOUT.size]), 1)


def test_the_knob_page_has_its_fields_where_the_page_says(tmp_path):
    create_page(tmp_path / "page", (1, 2), 5.0)
    writer = PageWriter(tmp_path / "page")
    writer.heartbeat(6.0, "act")
    assert writer.write((0, 3), 7.0) == 1
    writer.close()
    data = (tmp_path / "page").read_bytes()
    assert len(data) == 4096
    assert data[:8] == b"ATPAGE1\0"
    assert struct.unpack_from("<II", data, 8) == (PROTOCOL_VERSION, crc32(data[:12]))
    assert struct.unpack_from("<Q", data, 16) == (1,)
    assert struct.unpack_from("<dB3xI", data, 32) == (6.0, MODES.index("act"), crc32(data[32:44]))
    assert struct.unpack_from("<QdH2b", data, 64) == (0, 5.0, 2, 1, 2)
    assert struct.unpack_from("<QdH2b", data, 128) == (1, 7.0, 2, 0, 3)
    assert struct.unpack_from("<I", data, 164) == (crc32(data[128:164]),)
    assert set(data[168:]) == {0}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_decision_has_its_five_lines():
    decisions = (ROOT / "docs" / "decisions.md").read_text().split("\n## ")[1:]
    assert len(decisions) >= 10
    for decision in decisions:
        words = re.findall(r"^\*\*(.+?):\*\*", decision, re.MULTILINE)
        assert words == ["Question", "Choice", "Why", "What would change our mind", "Date"], decision.splitlines()[0]
