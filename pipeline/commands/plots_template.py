"""Writes the HTML template of `dvc plots show` with the Vega library inside, so that plots work without a network.

DVC's own template loads Vega from a CDN. `plots.html_template` in .dvc/config names this one.
"""

from pathlib import Path

import vl_convert

from pipeline.artefacts.files import replacing

SNIPPET = "window.vegaEmbed = vegaEmbed;"
# DVC replaces names in braces. There is no {scripts}, which it would replace with the CDN's.
PAGE = Path(__file__).with_suffix(".html")


def write_template(out: Path) -> None:
    """Write the template atomically."""
    page = PAGE.read_text(encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(page.replace("LIBRARY", vl_convert.javascript_bundle(SNIPPET)), encoding="utf-8")
