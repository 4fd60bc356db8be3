"""The frame around every page: head, style, refresh, footer, and the policy that forbids everything else."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from autotuner.daemon.markup import Content, Markup, tag

_STYLE = Path(__file__).with_name("status.css").read_text(encoding="utf-8")
_SCRIPT = Path(__file__).with_name("status.js").read_text(encoding="utf-8")
REFRESH_SECONDS = 5
"""How often a browser without scripts loads the page again."""


def _source(content: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_source(_STYLE)}",
        f"script-src {_source(_SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Only this page's own style and script run; nothing is loaded, framed or sent."""


def document(title: str, *body: Content) -> str:
    """A whole page; ``body`` is what a refresh replaces."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("noscript", tag("meta", http_equiv="refresh", content=REFRESH_SECONDS)),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(_STYLE)),
    )
    lost = tag("p", "The daemon does not answer. This is the last that it said.", class_="banner lost-banner")
    links = (tag("a", name, href=path) for name, path in (("Runs", "/"), ("Metrics", "/metrics"), ("JSON", "/api/status")))
    footer = tag("footer", *links, tag("span", "Read only. Change a knob with: autotuner pin RUN KNOB --value V"))
    page = tag("html", head, tag("body", lost, tag("main", *body), footer, tag("script", Markup(_SCRIPT))), lang="en")
    return "<!doctype html>\n" + page
