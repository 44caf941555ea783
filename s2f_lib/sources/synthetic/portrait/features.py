"""Eyes, brows, nostrils, mouth, beard and glasses of a portrait."""

from __future__ import annotations

import numpy as np

from s2f_lib.sources.synthetic.people import FaceLatents
from s2f_lib.sources.synthetic.portrait.canvas import Canvas, between, ellipse, mirrored, palette_colour
from s2f_lib.sources.synthetic.portrait.geometry import MOUTH_GAP, FaceGeometry
from s2f_lib.sources.synthetic.portrait.surface import skin_colour

_IRIS_TONES = np.array([0.0, 0.4, 0.7, 1.0])
_IRIS = np.array([(0.13, 0.08, 0.05), (0.36, 0.24, 0.12), (0.35, 0.42, 0.28), (0.38, 0.54, 0.70)])


def paint_eyes(canvas: Canvas, face: FaceLatents, g: FaceGeometry, light: np.ndarray) -> None:
    """Paint both eyes: white, iris, pupil, glint, lids and lashes."""
    t = np.linspace(-1, 1, 25)
    rise = -g.eye_tilt * t  # t = 1 is the outer corner
    upper = -1.15 * g.eye_half_height * (1 - np.abs(t) ** 2.2) ** 0.75 + rise
    lower = 0.75 * g.eye_half_height * (1 - t**2) ** 0.8 + rise
    x = g.eye_x + g.eye_half_width * t
    skin = skin_colour(face.skin_tone)
    iris = palette_colour(face.iris_tone, _IRIS_TONES, _IRIS)
    radius = 0.068
    for side in (1, -1):
        outline = mirrored(between(x, upper + g.eye_y, lower + g.eye_y), side)
        # a shadow around the eye, then the white
        canvas.fill(outline, 0.55 * skin, opacity=0.5, soft=0.03, light=light)
        canvas.fill(outline, (0.93, 0.91, 0.89), light=light)
        inside = np.zeros_like(canvas.alpha)
        box, mask = canvas.mask(outline)
        inside[box] = mask
        middle = side * g.eye_x
        centre_y = g.eye_y - 0.008
        canvas.fill(ellipse(middle, centre_y, radius, radius), 0.45 * iris, inside=inside)
        canvas.fill(ellipse(middle, centre_y, 0.86 * radius, 0.86 * radius), iris, soft=0.006, inside=inside)
        pupil = ellipse(middle, centre_y, 0.42 * radius, 0.42 * radius)
        canvas.fill(pupil, (0.03, 0.03, 0.03), inside=inside)
        # shadow of the upper lid on the eyeball
        lid = mirrored(np.column_stack([x, upper + g.eye_y]), side)
        band = np.concatenate([lid, lid[::-1] + np.array([0, 0.028])])
        canvas.fill(band, (0.1, 0.07, 0.06), opacity=0.45, soft=0.01, inside=inside)
        glint = ellipse(middle + 0.022, centre_y - 0.024, 0.013, 0.013)
        canvas.fill(glint, (1, 1, 1), opacity=0.9, inside=inside)
        # lid line with lashes (thicker on women), crease above, line below
        thick = 0.013 + 0.013 * (1 - g.male)
        corner = [[g.eye_x + 1.12 * g.eye_half_width, g.eye_y - 1.3 * g.eye_tilt - 0.012]]
        wing = mirrored(corner, side) if not g.male else lid[:0]
        lashes = np.concatenate([lid, wing, lid[::-1] - np.array([0, thick])])
        canvas.fill(lashes, 0.25 * skin * (0.4 + 0.6 * g.male), opacity=0.9, soft=0.003)
        crease = lid - np.array([0, 0.036 - 0.01 * g.aged])
        crease = np.concatenate([crease, crease[::-1] - np.array([0, 0.012])])
        canvas.fill(crease, 0.5 * skin, opacity=0.5, soft=0.006, light=light)
        below = mirrored(between(x, lower + g.eye_y, lower + g.eye_y + 0.009), side)
        canvas.fill(below, 0.5 * skin, opacity=0.55, soft=0.004, light=light)


def paint_brows(
    canvas: Canvas, face: FaceLatents, g: FaceGeometry, hair: np.ndarray, light: np.ndarray
) -> None:
    """Paint both brows, in the colour of the hair."""
    t = np.linspace(0, 1, 16)  # 0 at the nose, 1 outside
    x = g.eye_x - 0.155 + 0.35 * t
    arch = g.brow_y - g.brow_arch * np.sin(np.pi * np.clip(t, 0, 1) ** 1.3) * 1.6 + 0.035 * t**2
    half = g.brow_half_thickness * (1 - 0.75 * t**2)
    points = between(x, arch - half, arch + half)
    # always darker than the skin: the detector misses faces with light brows
    colour = np.minimum(0.75 * hair, 0.62 * skin_colour(face.skin_tone))
    for side in (1, -1):
        canvas.fill(mirrored(points, side), colour, opacity=0.85, soft=0.008, light=light)


def paint_nose(canvas: Canvas, face: FaceLatents, g: FaceGeometry, light: np.ndarray) -> None:
    """Paint the nostrils and the shadow under the tip."""
    skin = skin_colour(face.skin_tone)
    wide = g.nose_half_width
    shadow = ellipse(0, g.nose_y + 0.06, 0.9 * wide, 0.025)
    canvas.fill(shadow, 0.5 * skin, opacity=0.5, soft=0.022, light=light)
    for side in (1, -1):
        nostril = ellipse(side * 0.48 * wide, g.nose_y + 0.042, 0.27 * wide, 0.019)
        canvas.fill(nostril, 0.16 * skin, opacity=0.85, soft=0.006)
        wing = ellipse(side * 0.98 * wide, g.nose_y + 0.015, 0.012, 0.04)
        canvas.fill(wing, 0.45 * skin, opacity=0.5, soft=0.01, light=light)


def paint_mouth(canvas: Canvas, face: FaceLatents, g: FaceGeometry, light: np.ndarray) -> None:
    """Paint the mouth wide open; poses close it by moving the lower lip up."""
    skin = skin_colour(face.skin_tone)
    t = np.linspace(-1, 1, 31)
    x = g.mouth_half_width * t
    bow = (1 - t**2) ** 0.7
    gap = MOUTH_GAP * (1 - t**2)
    line = g.mouth_line(t)
    upper_edge = line - g.upper_lip * bow * (1.05 - 0.3 * np.exp(-((t / 0.16) ** 2)))
    lower_line = line + gap
    lower_edge = lower_line + g.lower_lip * bow
    natural = skin * np.array([0.86, 0.62, 0.60], np.float32)
    rouge = np.array([0.70, 0.20, 0.22], np.float32) * (1 - 0.35 * face.skin_tone)
    made_up = 0.62 * (1 - g.male) * (1 - 0.5 * g.aged)
    lip = natural + made_up * (rouge - natural)
    canvas.fill(between(x, line, lower_line), (0.16, 0.05, 0.05))
    teeth = between(x, line + 0.12 * gap, line + 0.45 * gap)
    canvas.fill(teeth, (0.88, 0.86, 0.82), opacity=0.85, soft=0.006)
    canvas.fill(between(x, upper_edge, line), 0.88 * lip, soft=0.005, light=light)
    canvas.fill(between(x, lower_line, lower_edge), lip, soft=0.006, light=light)
    height = lower_edge - lower_line
    shine = between(x, lower_line + 0.3 * height, lower_line + 0.55 * height)
    shine = 0.5 * shine + 0.5 * shine.mean(axis=0)
    canvas.fill(shine, (1.0, 0.9, 0.9), opacity=0.12 + 0.1 * (1 - g.male), soft=0.015)
    shadow = between(x, lower_edge, lower_edge + 0.03 * bow)
    canvas.fill(shadow, 0.55 * skin, opacity=0.35, soft=0.015, light=light)
    for side in (1, -1):
        corner = ellipse(side * g.mouth_half_width, g.mouth_y - 0.012, 0.02, 0.014)
        canvas.fill(corner, 0.4 * skin, opacity=0.6, soft=0.008)


def paint_beard(
    canvas: Canvas, face: FaceLatents, g: FaceGeometry, hair: np.ndarray, light: np.ndarray, grain: np.ndarray
) -> None:
    """Paint stubble, a moustache or a full beard, if the person has one."""
    if face.beard == 0:
        return
    textured = light * (1 + 0.16 * grain)
    t = np.linspace(-1, 1, 31)
    if face.beard in (2, 3):
        x = 1.15 * g.mouth_half_width * t
        top = g.nose_y + 0.085 + 0.10 * t**2
        bottom = g.mouth_y - 0.5 * g.upper_lip + 0.07 * t**2
        canvas.fill(between(x, top, bottom), hair, opacity=0.9, soft=0.012, light=textured)
    if face.beard in (1, 3):
        y = np.linspace(0.05, g.chin_y - 0.005, 24)
        width = g.width_at(y)
        grow = 0.06 * (face.beard == 3)
        right = np.column_stack(
            [width + grow * np.clip((y - 0.3) / 0.5, 0, 1), y + grow * (y / g.chin_y) ** 4]
        )
        # the inner edge runs down the cheek and around the mouth
        u = np.linspace(0, np.pi, 24)
        inner_x = (g.half_width - 0.1) * np.cos(u)
        inner_y = 0.1 + (g.mouth_y + MOUTH_GAP + g.lower_lip + 0.03 - 0.1) * np.sin(u) ** 0.55
        ring = np.concatenate([right, mirrored(right, -1)[::-1], np.column_stack([inner_x, inner_y])[::-1]])
        strength = 0.88 if face.beard == 3 else 0.3
        canvas.fill(ring, hair, opacity=strength, soft=0.022 if face.beard == 3 else 0.05, light=textured)


def paint_glasses(canvas: Canvas, face: FaceLatents, g: FaceGeometry) -> None:
    """Paint thin glasses, if the person wears them."""
    if not face.glasses:
        return
    frame = (0.10, 0.09, 0.09)
    for side in (1, -1):
        middle = side * g.eye_x
        outer, inner = ellipse(middle, 0.03, 0.205, 0.16), ellipse(middle, 0.03, 0.188, 0.143)
        ring = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
        canvas.fill(ring, frame, opacity=0.9)
        temple = g.half_width * 0.98
        bar = [(g.eye_x + 0.2, -0.02), (temple, -0.05), (temple, -0.025), (g.eye_x + 0.2, 0.005)]
        canvas.fill(mirrored(bar, side), frame, opacity=0.85)
    half = g.eye_x - 0.195
    canvas.fill(np.array([(-half, 0.0), (half, 0.0), (half, 0.02), (-half, 0.02)]), frame, opacity=0.9)
