"""HTML that is escaped by construction: text becomes markup only through ``tag``."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is already safe HTML; only ``tag`` makes it, besides the page's own constants."""

    __slots__ = ()


Content = Markup | str | int | None
_VOID = frozenset({"meta", "link", "line", "rect", "circle", "polyline"})


def text(content: Content) -> Markup:
    """Escape unless it is markup; None is nothing."""
    if content is None:
        return Markup("")
    return content if isinstance(content, Markup) else Markup(escape(str(content)))


def tag(name: str, /, *contents: Content, **attributes: object) -> Markup:
    """An element; ``class_`` is class, ``_`` in a name is ``-``, an attribute of None is left out."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items() if value is not None
    )
    inner = "".join(text(content) for content in contents)
    return Markup(f"<{name}{pairs}/>" if name in _VOID and not inner else f"<{name}{pairs}>{inner}</{name}>")
