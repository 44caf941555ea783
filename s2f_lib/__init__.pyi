from .config import StudyConfig as StudyConfig
from .config import load_config as load_config
from .errors import InputError as InputError
from .errors import StudyError as StudyError
from .evaluation.tables import Predictions as Predictions
from .evaluation.tables import evaluate_retrieval as evaluate_retrieval
from .evaluation.tables import plot_recall as plot_recall
from .media.spectrogram import complex_spectrogram as complex_spectrogram
from .models.voice_encoder import VoiceEncoder as VoiceEncoder
from .preparation.pipeline import prepare as prepare
from .preparation.pipeline import prepare_folder as prepare_folder
from .preparation.pipeline import prepare_recordings as prepare_recordings
from .preparation.shards import PreparedClips as PreparedClips
from .preparation.shards import read_prepared as read_prepared
from .reconstruction.voice import Reconstruction as Reconstruction
from .reconstruction.voice import reconstruct as reconstruct
from .registry import register as register
from .sources.avspeech import load_clips as load_clips
from .sources.synthetic.clips import make_synthetic_clips as make_synthetic_clips
from .study import Study as Study
from .training.decoder import TrainedDecoder as TrainedDecoder
from .training.decoder import load_decoder as load_decoder
from .training.decoder import train_face_decoder as train_face_decoder
from .training.encoder import TrainedEncoder as TrainedEncoder
from .training.encoder import load_encoder as load_encoder
from .training.encoder import train_voice_encoder as train_voice_encoder

__version__: str
