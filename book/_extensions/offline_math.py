"""Formulas as SVG, drawn by matplotlib while the book is built.

Sphinx's own renderers load MathJax from the network or need a TeX installation. Matplotlib is installed
and draws all formulas of the book. The LaTeX source is the image's alternative text.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from xml.etree import ElementTree

_POINTS = 12.0  # font size of the SVG; the page scales it by em

# LaTeX commands that mathtext lacks
_REWRITE = [
    (re.compile(r"\\lVert|\\rVert|\\\|"), r"\\Vert "),
    (re.compile(r"\\top\b"), r"\\mathsf{T}"),
    (re.compile(r"\\text\{"), r"\\mathrm{"),
    (re.compile(r"\\[,;:!]"), r"\\ "),
    (re.compile(r"\s+"), " "),
]


def to_svg(latex: str, *, block: bool = False) -> str:
    """Return a formula as an inline SVG, in the colour and size of the text around it.

    Parameters
    ----------
    latex
        Formula without dollar signs.
    block
        Whether the formula has its own line: it is a little larger, and not aligned with a baseline.

    Raises
    ------
    ValueError
        Matplotlib cannot draw the formula; the message says why.
    """
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    text = latex
    for pattern, replacement in _REWRITE:
        text = pattern.sub(replacement, text)
    text = f"${text.strip()}$"
    salt = hashlib.sha256(text.encode()).hexdigest()[:8]
    # the salt makes the ids the same in every build, and different from those of other formulas
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": salt, "mathtext.fontset": "cm"}):
        buffer = io.BytesIO()
        properties = FontProperties(size=_POINTS)
        depth = math_to_image(text, buffer, prop=properties, dpi=72, format="svg")
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(buffer.getvalue())
    for metadata in root.findall("{http://www.w3.org/2000/svg}metadata"):
        root.remove(metadata)
    image = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", ElementTree.tostring(root, encoding="unicode"))
    image = re.sub(r"fill: ?#ffffff", "fill: none", image)
    width, height = (float(root.attrib[side].removesuffix("pt")) / _POINTS for side in ("width", "height"))
    scale = 1.15 if block else 1.0
    style = f"width:{width * scale:.3f}em;height:{height * scale:.3f}em;"
    style += "" if block else f"vertical-align:{-depth / _POINTS:.3f}em"
    label = html.escape(latex.strip(), quote=True)
    size = r'\s(?:width|height)="[^"]*pt"'
    image = re.sub(size, "", image, count=2)
    return image.replace(
        "<svg", f'<svg role="img" aria-label="{label}" fill="currentColor" style="{style}"', 1
    )


def _visit_inline(self, node) -> None:
    from docutils.nodes import SkipNode

    self.body.append(f'<span class="math">{_svg_or_source(node.astext(), node)}</span>')
    raise SkipNode


def _visit_block(self, node) -> None:
    from docutils.nodes import SkipNode

    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    self.body.append(f'<div class="math">{number}{_svg_or_source(node.astext(), node, block=True)}</div>\n')
    raise SkipNode


def _svg_or_source(latex: str, node, *, block: bool = False) -> str:
    from sphinx.util import logging

    try:
        return to_svg(latex, block=block)
    except ValueError as error:
        message = " ".join(str(error).split())
        logging.getLogger(__name__).warning("formula %r: %s", latex, message, location=node)
        return f"<code>{html.escape(latex)}</code>"


def setup(app) -> dict[str, bool]:
    """Register the renderer `offline`."""
    app.add_html_math_renderer("offline", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
