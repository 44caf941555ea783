from .decode import read_audio as read_audio
from .decode import read_frames as read_frames
from .decode import repeat_to as repeat_to
from .jpeg import PackedJpegs as PackedJpegs
from .jpeg import decode_jpeg as decode_jpeg
from .jpeg import encode_jpeg as encode_jpeg
from .spectrogram import complex_spectrogram as complex_spectrogram
from .speech_check import check_speech as check_speech
