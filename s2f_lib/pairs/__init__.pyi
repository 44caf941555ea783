from .data import PairData as PairData
from .model import TrainingPairs as TrainingPairs
from .model import VoiceToFace as VoiceToFace
from .model import VoiceToFaceSettings as VoiceToFaceSettings
from .protocol import evaluate_pairs as evaluate_pairs
from .shards import prepare_pairs as prepare_pairs
from .study import run_pairs as run_pairs
