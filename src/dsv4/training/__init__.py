"""Training of V4 models: Muon and AdamW, the pre-training objective, one resumable loop."""

from dsv4.training.config import TrainConfig
from dsv4.training.pretrain import Trained, train
from dsv4.training.schedule import Schedule

__all__ = ["Schedule", "TrainConfig", "Trained", "train"]
