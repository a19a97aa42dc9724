"""The page that `dvc plots show` fills, with the drawing library inside: plots are seen with the network cut off.

DVC's own page takes Vega from a CDN and stays blank without it. `plots.html_template` in .dvc/config names this one.
"""

from __future__ import annotations

from pathlib import Path

import vl_convert

from pipeline.artefacts.files import replacing

SNIPPET = "window.vegaEmbed = vegaEmbed;"
# Braced names are DVC's places. There is none for scripts: it would be filled with the CDN's.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<style>body { font-family: sans-serif } table { border-spacing: 15px }</style>
<script>(() => {
LIBRARY
})();</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def write_template(out: Path) -> None:
    """Write the page, at once and whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(PAGE.replace("LIBRARY", vl_convert.javascript_bundle(SNIPPET)), encoding="utf-8")
