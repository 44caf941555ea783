"""Galleries of a user's own images."""

from __future__ import annotations

import cv2
import numpy as np

from s2f_lib.config import load_config
from s2f_lib.faces.face_set import read_gallery
from s2f_lib.media.jpeg import decode_jpeg
from s2f_lib.sources.synthetic.people import draw_face
from s2f_lib.sources.synthetic.portrait.face import Pose, draw_portrait, draw_scene


def test_read_gallery_small_face_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path / "workspace"))
    rng = np.random.default_rng(3)
    portrait = draw_portrait(draw_face(rng), size_px=(480, 360), scene=draw_scene(rng)).frame(Pose())
    image = cv2.copyMakeBorder(cv2.resize(portrait, (300, 225)), 40, 275, 500, 160, cv2.BORDER_REPLICATE)
    folder = tmp_path / "gallery"
    folder.mkdir()
    cv2.imwrite(str(folder / "small.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    config = load_config("quick")
    assert config.preparation.detection_width_px == 240  # the face would be about 25 px wide
    names, features, images = read_gallery(folder, preparation=config.preparation, features=config.features)
    assert names == ("small.png",)
    assert features.shape == (1, 128)
    assert decode_jpeg(images[0]).shape == (224, 224, 3)
