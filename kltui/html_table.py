"""Tables as HTML for notebooks; every cell is untrusted text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from kltui.sanitize import safe_text


def html_text(text: str) -> str:
    """`text` as HTML shows it: printable, on one line, with no tag in it.

    >>> html_text("<b>1\\n</b>")
    '&lt;b&gt;1⏎&lt;/b&gt;'
    """
    return html.escape(safe_text(text))


def html_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table with a caption; the first column is left-aligned for names, the others right-aligned for numbers."""
    lines = [f"<p>{html_text(caption)}</p>", "<table>", "<thead><tr>"]
    lines += [f"<th>{html_text(heading)}</th>" for heading in headings]
    lines.append("</tr></thead><tbody>")
    for row in rows:
        name, *others = (html_text(cell) for cell in row)
        cells = [f'<td style="text-align: right">{cell}</td>' for cell in others]
        lines.append(f'<tr><td style="text-align: left">{name}</td>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody></table>"])
