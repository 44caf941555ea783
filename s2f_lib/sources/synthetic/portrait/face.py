"""Portraits of the generated people: a shaded image that is painted once and then moved by poses.

`draw_portrait` paints a person in front of a background. `Portrait.frame` moves the head and the mouth by
warping that image with the depth of the head, which takes a few milliseconds per frame.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np

from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.people import FaceLatents
from s2f_lib.sources.synthetic.portrait import features as face_features
from s2f_lib.sources.synthetic.portrait import hair as face_hair
from s2f_lib.sources.synthetic.portrait.canvas import Canvas, ellipse, mirrored, smooth_noise
from s2f_lib.sources.synthetic.portrait.geometry import MOUTH_GAP, FaceGeometry, measure
from s2f_lib.sources.synthetic.portrait.surface import head_height, shade, skin_colour, skin_layer

_NECK_Y = 1.15  # the head tilts around here
_SMALLEST_PX = 64


@dataclass(frozen=True, slots=True)
class Pose:
    """Position of the head in one frame.

    Examples
    --------
    >>> Pose(yaw_deg=8.0).roll_deg
    0.0
    """

    yaw_deg: float = 0.0  # turn to the right of the image, about -20 to 20
    pitch_deg: float = 0.0  # downward nod, about -12 to 12
    roll_deg: float = 0.0  # clockwise tilt, about -12 to 12
    shift_x: float = 0.0  # shift of the whole person, in face units (half the height of a head)
    shift_y: float = 0.0
    mouth_open: float = 0.0  # 0 closed to 1 wide open


@dataclass(frozen=True, slots=True)
class Scene:
    """Light, framing, clothes and background of an image.

    Examples
    --------
    >>> Scene(head_share=0.5).centre_x
    0.5
    """

    light: tuple[float, float, float] = (0.3, -0.45, 1.0)  # direction: right, down, toward the viewer
    exposure: float = 1.0  # factor on all colours
    warmth: float = 0.0  # red against blue in the light
    centre_x: float = 0.5  # middle of the head, as shares of the frame
    centre_y: float = 0.5
    head_share: float = 0.7  # height of the head, as a share of the frame's height
    clothes: tuple[float, float, float] = (0.25, 0.32, 0.45)  # sRGB in [0, 1]
    background_seed: int = 0


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw light, framing, clothes and background."""
    hue = np.clip(rng.uniform(0.12, 0.75) + rng.normal(0, 0.12, 3), 0.05, 0.9)
    return Scene(
        light=(float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.65, -0.25)), 1.0),
        exposure=float(rng.uniform(0.93, 1.07)),
        warmth=float(rng.normal(0, 0.02)),
        centre_x=float(rng.uniform(0.40, 0.60)),
        centre_y=float(rng.uniform(0.49, 0.53)),
        head_share=float(rng.uniform(0.66, 0.74)),
        clothes=(float(hue[0]), float(hue[1]), float(hue[2])),
        background_seed=int(rng.integers(2**31)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A painted person that poses can move."""

    person: np.ndarray  # (height, width, 4) uint8: RGB times alpha, and alpha
    background: np.ndarray  # (height, width, 3) uint8 RGB
    geometry: FaceGeometry
    centre_px: tuple[float, float]  # origin of the face units
    px_per_unit: float  # size of a face unit
    _fields: dict[str, np.ndarray] = field(repr=False)

    def frame(self, pose: Pose) -> np.ndarray:
        """Return the image in one pose, `(height, width, 3)` uint8 RGB."""
        map_x, map_y = self._maps(pose)
        moved = cv2.remap(self.person, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # premultiplied alpha: background * (1 - alpha) + person
        left = cv2.cvtColor(255 - moved[..., 3], cv2.COLOR_GRAY2RGB)
        behind = cv2.multiply(self.background, left, scale=1 / 255)
        return cv2.add(behind, cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB))

    def eyes_px(self, pose: Pose) -> np.ndarray:
        """Return x and y of the corners of the eyes in pixels, left to right, `(4, 2)` float64."""
        g = self.geometry
        inner, outer = g.eye_x - g.eye_half_width, g.eye_x + g.eye_half_width
        points = [(-outer, -g.eye_tilt), (-inner, g.eye_tilt), (inner, g.eye_tilt), (outer, -g.eye_tilt)]
        return np.array([self._project(x, g.eye_y + y, pose) for x, y in points])

    def _maps(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each pixel of the posed image."""
        f = self._fields
        yaw, pitch, roll = (
            math.sin(math.radians(turn)) for turn in (pose.yaw_deg, pose.pitch_deg, pose.roll_deg)
        )
        scale = self.px_per_unit
        # points move in proportion to their depth; the body below the neck does not move
        map_x = f["x"] - scale * yaw * f["depth"] + (roll * f["head"]) * (f["y"] - f["neck_px"])
        map_y = f["y"] - scale * pitch * f["depth"] - (roll * f["head"]) * (f["x"] - self.centre_px[0])
        self._close_mouth(map_x, map_y, opened=min(max(pose.mouth_open, 0.0), 1.0))
        map_x -= scale * pose.shift_x
        map_y -= scale * pose.shift_y
        return map_x, map_y

    def _close_mouth(self, map_x: np.ndarray, map_y: np.ndarray, *, opened: float) -> None:
        """Move the lower lip up in the maps, which are changed: the mouth is painted open."""
        g, scale = self.geometry, self.px_per_unit
        reach = 0.35 * scale  # farther than any pose moves the mouth
        columns = _span(self.centre_px[0], g.mouth_half_width * scale + reach, map_x.shape[1])
        middle = self.centre_px[1] + 0.5 * scale * (g.mouth_y + g.chin_y)
        rows = _span(middle, 0.5 * scale * (g.chin_y - g.mouth_y) + reach, map_x.shape[0])
        x, y = map_x[rows, columns], map_y[rows, columns]
        across = (x - self.centre_px[0]) * (1 / (scale * g.mouth_half_width))
        gap = (scale * MOUTH_GAP) * np.maximum(1 - across * across, 0)
        below = y - (self.centre_px[1] + scale * g.mouth_line(np.clip(across, -1, 1)))
        # a nearly closed mouth shows the dark part below the upper lip and skips the teeth
        climb = np.clip(below / np.maximum(max(opened, 0.12) * gap, 1e-3), 0, 1) ** (
            6 if opened < 0.15 else 1
        )
        jaw_px = scale * (g.chin_y - g.mouth_y - MOUTH_GAP)
        fade = np.clip((scale * (g.chin_y - g.mouth_y) - below) * (1 / jaw_px), 0, 1)
        y += (1 - opened) * gap * climb * fade

    def _project(self, x: float, y: float, pose: Pose) -> tuple[float, float]:
        """Return the posed position, in pixels, of a point of the face's surface."""
        source = np.array([x, y]) * self.px_per_unit + self.centre_px
        target = source.copy()
        height, width = self.background.shape[:2]
        map_x, map_y = self._maps(pose)
        for _ in range(8):  # the map leads from target to source: invert it by fixed-point iteration
            row = int(np.clip(round(target[1]), 0, height - 1))
            column = int(np.clip(round(target[0]), 0, width - 1))
            back = np.array([map_x[row, column] - column, map_y[row, column] - row])
            target = source - back
        return float(target[0]), float(target[1])


def draw_portrait(face: FaceLatents, *, size_px: tuple[int, int], scene: Scene | None = None) -> Portrait:
    """Paint a person.

    Parameters
    ----------
    face
        Latents of the face; equal latents give equal images.
    size_px
        Width and height of the image, each at least 64.
    scene
        Light, framing, clothes and background. None: a plain scene.

    Raises
    ------
    InputError
        The image is too small.

    See Also
    --------
    draw_scene : Draws a random scene.

    Examples
    --------
    >>> from s2f_lib.sources.synthetic.people import draw_face
    >>> face, scene = draw_face(np.random.default_rng(0)), Scene(exposure=1.1)
    >>> portrait = draw_portrait(face, size_px=(120, 90), scene=scene)
    >>> portrait.frame(Pose(yaw_deg=8.0)).shape
    (90, 120, 3)
    """
    width, height = size_px
    if min(width, height) < _SMALLEST_PX:
        raise InputError(f"portrait of {width} x {height} pixels: expected at least {_SMALLEST_PX} per side")
    scene = scene or Scene()
    g = measure(face)
    unit = 0.5 * scene.head_share * height
    centre = (scene.centre_x * width, scene.centre_y * height)
    canvas = Canvas(width, height, centre_px=centre, px_per_unit=unit)
    surface = head_height(g, canvas.x, canvas.y)
    _paint(canvas, face, g, scene, surface)
    tint = scene.exposure * np.array([1 + scene.warmth, 1, 1 - scene.warmth], np.float32)
    colour = np.clip(canvas.colour * tint, 0, 1) * canvas.alpha[..., None]
    person = np.dstack([colour, canvas.alpha])
    return Portrait(
        person=np.round(255 * person).astype(np.uint8),
        background=_background(width, height, scene),
        geometry=g,
        centre_px=centre,
        px_per_unit=unit,
        _fields=_motion_fields(canvas, surface),
    )


def _paint(canvas: Canvas, face: FaceLatents, g: FaceGeometry, scene: Scene, surface: np.ndarray) -> None:
    """Paint all layers, from back to front."""
    rng = np.random.default_rng(zlib.crc32(repr(face).encode()))  # texture of this person
    shape = canvas.alpha.shape
    if face.curly:
        grain = smooth_noise(rng, shape, (90, 120))
    else:  # vertical strands
        grain = 0.8 * smooth_noise(rng, shape, (9, 130)) + 0.3 * smooth_noise(rng, shape, (5, 12))
    mottle = smooth_noise(rng, shape, (48, 64))
    hair = face_hair.hair_colour(face)
    hair_light = face_hair.hair_light(canvas, face, scene.light, grain)
    light = shade(surface, px_per_unit=canvas.px_per_unit, light=scene.light)
    skin = skin_colour(face.skin_tone)
    face_hair.paint_back_hair(canvas, face, g, hair, hair_light)
    _paint_body(canvas, g, scene, skin)
    # ears
    for side in (1, -1):
        edge = float(g.width_at(np.array([0.1]))[0])
        facing = 0.82 + 0.18 * side * np.sign(scene.light[0])
        canvas.fill(ellipse(side * (edge + 0.01), 0.1, 0.085, 0.19), 0.8 * facing * skin)
        canvas.fill(ellipse(side * (edge + 0.03), 0.1, 0.04, 0.12), 0.6 * facing * skin, soft=0.02)
    # head
    y = np.linspace(-0.9999, g.chin_y - 1e-4, 160)
    half = g.width_at(y)
    outline = np.concatenate([np.column_stack([half, y]), np.column_stack([-half, y])[::-1]])
    box, mask = canvas.mask(outline)
    canvas.blend(box, mask, skin_layer(face, g, canvas.x, canvas.y, mottle=mottle), light=light)
    if face.hair_style in (face_hair.BALD, face_hair.SHORT):
        scalp = ellipse(0, -0.75, 0.95 * g.half_width, 0.45)
        inside = np.zeros_like(canvas.alpha)
        inside[box] = mask
        canvas.fill(scalp, hair, opacity=0.12 * (1 - face.grey), soft=0.1, inside=inside)
    face_features.paint_nose(canvas, face, g, light)
    face_features.paint_beard(canvas, face, g, 0.85 * hair, light, grain)
    face_features.paint_mouth(canvas, face, g, light)
    face_features.paint_eyes(canvas, face, g, light)
    face_features.paint_brows(canvas, face, g, hair, light)
    face_hair.paint_top_hair(canvas, face, g, hair, hair_light)
    face_features.paint_glasses(canvas, face, g)


def _paint_body(canvas: Canvas, g: FaceGeometry, scene: Scene, skin: np.ndarray) -> None:
    """Paint neck and shoulders."""
    round_light = np.clip(
        1 - 0.5 * (canvas.x / 1.3) ** 2 + 0.25 * canvas.x * np.sign(scene.light[0]), 0.3, 1.2
    )
    folds = 1 + 0.06 * np.cos(7 * canvas.x[None, :] + 3 * canvas.y[:, None])
    cloth = (round_light[None, :] * folds).astype(np.float32)
    u = np.linspace(0, np.pi, 40)
    shoulder_y = g.chin_y + 0.24
    top = np.column_stack([g.shoulder_width * np.cos(u), shoulder_y + 0.5 - 0.5 * np.sin(u) ** 0.6])
    low = np.array([(-1.1 * g.shoulder_width, 4.0), (1.1 * g.shoulder_width, 4.0)])
    canvas.fill(np.concatenate([top, low]), np.asarray(scene.clothes, np.float32), light=cloth)
    w = g.neck_width
    across = np.clip(
        1 - 0.55 * (canvas.x / w) ** 2 + 0.25 * (canvas.x / w) * np.sign(scene.light[0]), 0.25, 1.1
    )
    under_chin = 0.62 + 0.3 * np.clip((canvas.y - g.chin_y - 0.02) / 0.5, 0, 1)
    neck_light = np.outer(under_chin, across).astype(np.float32)
    right = np.array([(w, 0.4), (w, g.chin_y + 0.15), (w + 0.1, shoulder_y + 0.03), (0.0, shoulder_y + 0.22)])
    canvas.fill(np.concatenate([right, mirrored(right[:-1], -1)[::-1]]), skin, light=neck_light, soft=0.01)


def _background(width: int, height: int, scene: Scene) -> np.ndarray:
    """Return a wall with a gradient and a few blurred shapes, `(height, width, 3)` uint8."""
    rng = np.random.default_rng(scene.background_seed)
    base, other = _muted(rng), _muted(rng)
    along = np.linspace(0, 1, 16)[:, None, None] * np.ones((1, 21, 1))
    small = base + (other - base) * along * rng.uniform(0.2, 0.8)
    small += 0.1 * np.linspace(-1, 1, 21)[None, :, None] * np.sign(scene.light[0])
    image = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 4))):  # a shelf, a window, a poster
        x, y = rng.uniform(-0.1, 0.9, 2)
        w, h = rng.uniform(0.1, 0.4, 2)
        corner = (int(x * width), int(y * height))
        far = (int((x + w) * width), int((y + h) * height))
        cv2.rectangle(image, corner, far, tuple(float(c) for c in _muted(rng)), -1)
    image = cv2.blur(cv2.blur(image, (width // 24, width // 24)), (width // 24, width // 24))
    image *= scene.exposure
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _span(middle: float, half: float, size: int) -> slice:
    """Return the pixels within `half` of `middle` that lie in the image."""
    return slice(min(max(0, int(middle - half)), size), max(0, min(size, int(middle + half) + 1)))


def _muted(rng: np.random.Generator) -> np.ndarray:
    """Draw a muted colour, `(3,)` sRGB in [0, 1]."""
    grey = rng.uniform(0.25, 0.85)
    return np.clip(grey + rng.normal(0, 0.07, 3), 0.05, 0.95)


def _motion_fields(canvas: Canvas, surface: np.ndarray) -> dict[str, np.ndarray]:
    """Return the float32 fields that poses need: pixel positions, depth, and the weight of the head."""
    unit = canvas.px_per_unit
    blur = max(1.0, 0.06 * unit)
    x = np.broadcast_to(np.arange(len(canvas.x), dtype=np.float32), canvas.alpha.shape)
    y = np.broadcast_to(np.arange(len(canvas.y), dtype=np.float32)[:, None], canvas.alpha.shape)
    head = np.clip((_NECK_Y + 0.35 - canvas.y) / 0.7, 0, 1)[:, None]
    return {
        "x": x,
        "y": y,
        "depth": cv2.GaussianBlur(surface, (0, 0), blur),
        "head": (head * head * (3 - 2 * head)).astype(np.float32),
        "neck_px": np.float32(_NECK_Y * unit + canvas.centre_px[1]),
    }
