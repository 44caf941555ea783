"""Hair of a portrait, behind the head and on it."""

from __future__ import annotations

import numpy as np

from s2f_lib.sources.synthetic.people import FaceLatents
from s2f_lib.sources.synthetic.portrait.canvas import Canvas, ellipse, mirrored, palette_colour
from s2f_lib.sources.synthetic.portrait.geometry import FaceGeometry

_PALETTE = np.array(
    [(0.07, 0.06, 0.06), (0.20, 0.13, 0.09), (0.36, 0.22, 0.13), (0.60, 0.36, 0.18), (0.86, 0.68, 0.40)],
    np.float32,
)
_GREY = np.array((0.66, 0.66, 0.67), np.float32)
BALD, SHORT, FULL, BOB, LONG, TIED = range(6)
_PAD = {SHORT: (0.045, 0.02), FULL: (0.17, 0.05), BOB: (0.12, 0.11), LONG: (0.12, 0.09), TIED: (0.06, 0.035)}


def hair_colour(face: FaceLatents) -> np.ndarray:
    """Return the colour of the hair, grey included, `(3,)` float32 sRGB in [0, 1]."""
    own = palette_colour(face.hair_tone, np.linspace(0, 1, len(_PALETTE)), _PALETTE)
    return own + face.grey * (_GREY - own)


def hair_light(
    canvas: Canvas, face: FaceLatents, direction: tuple[float, float, float], grain: np.ndarray
) -> np.ndarray:
    """Return the factor on the colour of the hair: a round shape with strands, lit from `direction`."""
    nx = np.clip(canvas.x / 1.15, -1, 1)[None, :]
    ny = np.clip((canvas.y + 0.1) / 1.35, -1, 1)[:, None]
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0.02, 1))
    lx, ly, lz = np.asarray(direction) / np.linalg.norm(direction)
    lambert = np.clip(lx * nx + ly * ny + lz * nz, 0, 1)
    gloss = lambert ** (8 if face.curly else 14)
    strands = 1 + (0.11 if face.curly else 0.14) * grain
    shine = 0.2 if face.curly else 0.5
    return ((0.5 + 0.6 * lambert + shine * gloss) * strands).astype(np.float32)


def paint_back_hair(
    canvas: Canvas, face: FaceLatents, g: FaceGeometry, colour: np.ndarray, light: np.ndarray
) -> None:
    """Paint the hair behind head and neck."""
    puff = 0.1 if face.curly else 0.0
    if face.hair_style in (BOB, LONG):
        end = 0.78 if face.hair_style == BOB else 1.5
        wide = g.half_width + (0.2 if face.hair_style == BOB else 0.17) + puff
        u = np.linspace(-np.pi, 0, 30)
        arc = np.column_stack([wide * np.cos(u), -0.25 + (0.87 + 0.6 * puff) * np.sin(u)])
        right = np.array([(wide + 0.03, 0.3), (0.94 * wide, end), (0.4, end + 0.06)])
        bottom = np.concatenate([right, mirrored(right, -1)[::-1]])
        canvas.fill(_bumpy(np.concatenate([arc, bottom]), face), 0.72 * colour, light=light, soft=0.01)
    elif face.hair_style == TIED:
        size = 0.3 if face.curly else 0.22
        canvas.fill(ellipse(0.1 * face.parting, -1.08, size, size), 0.8 * colour, light=light, soft=0.01)


def paint_top_hair(
    canvas: Canvas, face: FaceLatents, g: FaceGeometry, colour: np.ndarray, light: np.ndarray
) -> None:
    """Paint the hair on the head, down to the hairline."""
    if face.hair_style == BALD:
        return
    top, side_pad = _PAD[face.hair_style]
    if face.curly:
        top, side_pad = top + 0.07, side_pad + 0.05
    sideburn = {SHORT: 0.08, FULL: 0.12, BOB: 0.62, LONG: 0.75, TIED: -0.08}[face.hair_style]
    # outer edge: the head's outline, moved out, from the right ear over the crown to the left
    y = np.concatenate(
        [np.linspace(sideburn, -0.6, 14), -0.6 - 0.4 * np.sin(np.linspace(0, np.pi / 2, 16)[1:])]
    )
    lift = np.clip((-0.2 - y) / 0.8, 0, 1)
    head = g.width_at(np.maximum(y, -0.9999))
    if face.hair_style in (BOB, LONG):  # hangs straight down and does not follow the jaw
        head = np.where(y > -0.2, g.half_width, head)
    outer = np.column_stack([head + side_pad * (1 - 0.3 * lift**3), y - top * lift**1.5])
    # inner edge: the hairline
    low = g.hairline_y
    if face.fringe > 0.6 and face.hair_style in (FULL, BOB, LONG) and not (g.male and g.aged > 0.5):
        low = -0.36 - 0.08 * (face.fringe - 0.6)
    edge_y = np.array([sideburn, 0.0, -0.25, -0.42, low - 0.02 - 0.22 * max(0.0, -0.6 - low), low])
    edge_y[0:2] = np.minimum(edge_y[0:2], (sideburn, max(-0.05, min(0.0, sideburn))))
    edge_x = np.array([0.98, 0.93, 0.87, 0.8, 0.52, 0.24]) * g.half_width
    if face.hair_style in (BOB, LONG):
        edge_x[0] = g.half_width + 0.9 * side_pad  # the hair narrows
    right, left = np.column_stack([edge_x, edge_y]), np.column_stack([-edge_x, edge_y])
    # the parting moves the top of the hairline to one side
    shift = 0.12 * face.parting * g.half_width
    crown = np.array([(shift, low - 0.035)])
    inner = _rounded(np.concatenate([left, crown, right[::-1]]))
    outline = np.concatenate([_bumpy(outer, face), mirrored(_bumpy(outer, face), -1)[::-1], inner])
    shadow = outline + np.array([0, 0.025])
    canvas.fill(shadow, (0.05, 0.03, 0.02), opacity=0.3, soft=0.025, inside=canvas.alpha.copy())
    canvas.fill(outline, colour, light=light, soft=0.010 if face.hair_style != SHORT else 0.02)


def _bumpy(points: np.ndarray, face: FaceLatents) -> np.ndarray:
    """Give curly hair an uneven outline."""
    if not face.curly:
        return points
    dense = _rounded(points, 8)
    position = np.arange(len(dense))
    bump = 0.018 * np.sin(position * 1.1) + 0.012 * np.sin(position * 2.3 + 1)
    away = dense - np.array([0, -0.2])
    return dense + away * bump[:, None]


def _rounded(points: np.ndarray, steps: int = 6) -> np.ndarray:
    """Return a smooth curve through the points (Catmull-Rom)."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True)
    ]
    return np.concatenate([*pieces, points[-1:]])
