"""The HTML page: figures as JSON, the unchanged plotting library, and a policy that forbids all network access."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec

from kltui.errors import KltuiError
from kltui.figures.picture import PaperFigure
from kltui.figures.share.traces import left_out, sections
from kltui.sanitize import safe_text
from kltui.version import __version__

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1500px; padding: 1rem 1.5rem 3rem; font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; }
h1 { font-size: 1.5rem; margin: .4rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: .5rem; }
.figure { height: 460px; min-width: 0; } .figure.solid { height: 560px; } .figure.wide { grid-column: 1 / -1; height: 620px; }
.notes, footer { color: #666; font-size: .85rem; } pre { white-space: pre-wrap; }
nav a { margin-right: 1rem; color: #005f87; }
"""
# Decompresses and runs the library, then draws every figure; errors are shown on the page.
SCRIPT = """
(async () => {
  const said = document.getElementById("state");
  try {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent.trim()), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    const look = {margin: {l: 60, r: 20, t: 56, b: 50}, hovermode: "closest",
                  legend: {orientation: "h", yref: "container", y: 0, yanchor: "bottom"},
                  paper_bgcolor: "#fff", plot_bgcolor: "#fff", font: {size: 12}};
    const how = {displaylogo: false, responsive: true, scrollZoom: true, showSendToCloud: false, plotlyServerURL: ""};
    const figures = JSON.parse(document.getElementById("figures").textContent);
    for (const [id, one] of Object.entries(figures)) {
      await Plotly.newPlot(id, one.traces, {...look, ...one.layout}, how);
    }
    said.textContent = "";
    document.body.dataset.drawn = "yes";
  } catch (error) {
    said.textContent = "The figures could not be drawn: " + error + ". A browser from 2023 on is needed.";
  }
})();
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="notes">{basis}</p>
<nav>{nav}</nav>
<p id="state">Drawing …</p>
{body}
<footer>
<p>Made by kltui {version}. Drag to zoom or rotate, scroll to zoom, double-click to reset; click a name in a legend to hide its series.</p>
<details><summary>Drawn by plotly.js; its licence</summary><pre>{licence}</pre></details>
</footer>
<script type="application/json" id="figures">{figures}</script>
<script type="application/gzip" id="library">{library}</script>
<script>{script}</script>
</body>
</html>
"""
WIDE = ("scale", "matrix", "trajectories-3d")


def check_plotly() -> None:
    """Raises KltuiError if plotly is not installed."""
    if find_spec("plotly") is None:
        raise KltuiError(
            "pages are drawn by plotly, which is not installed",
            "pip install '.[share]' in kltui's folder.",
        )


def page(title: str, basis: str, pictures: list[PaperFigure]) -> str:
    """The HTML of a page with some figures. Raises KltuiError if plotly is not installed."""
    check_plotly()
    library = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    drawn: dict[str, object] = {}
    body = [_section(picture, drawn) for picture in pictures]
    return PAGE.format(
        title=html.escape(safe_text(title, 200)),
        basis=html.escape(safe_text(basis)),
        nav=" ".join(f'<a href="#{p.name}">{html.escape(p.title)}</a>' for p in pictures),
        body="\n".join(body),
        hashes=" ".join(f"'{_hash(code)}'" for code in (SCRIPT.encode(), library)),
        style=STYLE,
        version=__version__,
        licence=html.escape(_licence()),
        figures=in_script(drawn),
        library=base64.b64encode(gzip.compress(library, 9, mtime=0)).decode(),
        script=SCRIPT,
    )


def _section(picture: PaperFigure, drawn: dict[str, object]) -> str:
    """The HTML of one figure; its panels are added to `drawn`, {id of an element: panel}."""
    places = []
    wide = " wide" if picture.name in WIDE and len(picture.panels) == 1 else ""
    for number, panel in enumerate(sections(picture.panels)):
        place = f"{picture.name}-panel-{number}"
        drawn[place] = panel
        solid = " solid" if picture.panels[number].z is not None else ""
        places.append(f'<div class="figure{solid}{wide}" id="{place}"></div>')
    notes = "<br>".join(html.escape(safe_text(note)) for note in (*picture.notes, *unwritten(picture)))
    head = f'<section id="{picture.name}"><h2>{html.escape(safe_text(picture.title, 200))}</h2>'
    return f'{head}<div class="figures">{"".join(places)}</div><p class="notes">{notes}</p></section>'


def unwritten(picture: PaperFigure) -> list[str]:
    """What is to be said of the names of a figure that the page does not write at its axes."""
    said = [left_out(panel) for panel in picture.panels]
    return [
        line.replace("; the CSV of the figure has all", "; the others stand beside the mouse")
        for line in said
        if line
    ]


def in_script(data: object) -> str:
    """JSON that is safe inside a script element: no name in it can end the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(code: bytes) -> str:
    """The hash of a script for the content security policy that allows it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(code).digest()).decode()}"


def _licence() -> str:
    try:
        found = [f for f in distribution("plotly").files or () if f.name.startswith("LICENSE")]
    except PackageNotFoundError:
        found = []
    text = found[0].read_text() if found else "MIT License, Copyright Plotly, Inc."
    return text.strip()
