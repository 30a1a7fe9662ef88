"""The codes that switch a terminal from one style to another, as few of them as possible."""

from __future__ import annotations

from functools import lru_cache

from rich.color import ColorSystem
from rich.style import Style

OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "7": "27", "9": "29"}
ON_SPACES = frozenset("479")  # attributes that are visible where there is no letter
MAX_STYLES = 4096  # in the cache of style objects
MOST = 20_000  # different styles of one table

Codes = tuple[
    str, str, str
]  # attributes, ink and ground as SGR parameters; no ink: a space, whose ink is not visible

Names = tuple[Style | None, str, str]  # of a style: (itself, its name, that of a space in it)

UNKNOWN = "\0"  # the style of a cell whose content is unknown
PLAIN = "\1"  # no attributes and default colours


class StyleTable:
    """Names styles by one character each, so that the styles of a row are a string, and says how to change one into another."""

    def __init__(self, system: ColorSystem | None) -> None:
        self._system = system
        # By identity, because computing a style's hash is slower than everything else; the cache refers to the styles,
        # so that none is freed and its id reused.
        self.known: dict[int, Names] = {}
        self._codes: dict[str, Codes] = {}
        self._names: dict[Codes, str] = {}
        # For the names of two styles: the escape sequence from the one, in which something was written, to the other;
        # and the style then.
        self.changes: dict[str, tuple[str, str]] = {}
        self.blank: dict[
            str, str
        ] = {}  # for each style: that of a space in it, which is the same for all inks
        assert self._named(("", "39", "49")) == PLAIN

    @property
    def is_full(self) -> bool:
        """Whether there are so many styles that a new table should take over."""
        return len(self._codes) > MOST

    def names(self, style: Style | None) -> Names:
        """A style's names; styles that are written with the same codes share them."""
        if len(self.known) >= MAX_STYLES:
            self.known.clear()
        name = self._named(_codes(style, self._system)) if style else PLAIN
        found = self.known[id(style)] = style, name, self.blank[name]
        return found

    def _named(self, codes: Codes) -> str:
        if (known := self._names.get(codes)) is not None:
            return known
        made = self._names[codes] = chr(len(self._codes) + 1)
        self._codes[made] = codes
        self.blank[made] = made
        if codes[1] and ON_SPACES.isdisjoint(codes[0].split(";")):
            self.blank[made] = self._named(("", "", codes[2]))
        return made

    def change(self, before: str, after: str) -> tuple[str, str]:
        """(the shortest escape sequence from style `before`, in which something was written, to `after`; the style then)."""
        sequence, codes = _change(self._codes[before], self._codes[after])
        found = self.changes[before + after] = sequence, self._named(codes)
        return found


@lru_cache(maxsize=8192)
def _change(before: Codes, after: Codes) -> tuple[str, Codes]:
    """The shortest escape sequence from one style to another, and the style then."""
    if not after[1]:
        kept = (code for code in before[0].split(";") if code and code not in ON_SPACES)
        after = ";".join(kept), before[1], after[2]
    colors = [new for new, old in zip(after[1:], before[1:], strict=True) if new != old]
    parameters = [*_attributes(before[0], after[0]), *colors]
    return f"\x1b[{';'.join(parameters)}m" if parameters else "", after


def _attributes(before: str, after: str) -> list[str]:
    """The SGR codes that change the attributes `before` to `after`."""
    had, has = set(before.split(";")) - {""}, set(after.split(";")) - {""}
    off = {OFF[code] for code in had - has}
    # One code turns off both bold and dim, so the one that stays must be turned on again.
    kept = {code for code in had if OFF[code] not in off}
    return sorted(off) + sorted(has - kept)


@lru_cache(maxsize=8192)
def _codes(style: Style, system: ColorSystem | None) -> Codes:
    """The codes of a style; default colours without a colour system."""
    flags = ((style.bold, "1"), (style.dim, "2"), (style.italic, "3"), (style.underline, "4"),
             (style.reverse, "7"), (style.strike, "9"))  # fmt: skip
    attributes = ";".join(code for on, code in flags if on)
    if system is None:
        return attributes, "39", "49"
    ink = style.color.downgrade(system).get_ansi_codes() if style.color else ("39",)
    ground = style.bgcolor.downgrade(system).get_ansi_codes(foreground=False) if style.bgcolor else ("49",)
    return attributes, ";".join(ink), ";".join(ground)
