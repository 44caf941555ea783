"""Small real media files, as for the preparation."""

from tests.preparation.conftest import good_clip, media_writer, portrait, tone_maker

__all__ = ["good_clip", "media_writer", "portrait", "tone_maker"]
