"""Named settings of training: the report's, and Speech2Face's own."""

from __future__ import annotations

from s2f_lib.config import TrainingConfig

#: The report says only the loss; what it leaves out are this study's defaults.
REPORT_TRAINING = TrainingConfig()

#: Speech2Face (supplement): Adam, beta1 0.5, eps 1e-4, 1e-3 times 0.95 each 10,000 steps, batches of 8,
#: 3 epochs of 1.7 million pairs.  With `models.voice_encoder.SPEECH2FACE_ENCODER`.
SPEECH2FACE_TRAINING = TrainingConfig(
    epochs=3,
    batch_size=8,
    optimizer="adamw",
    weight_decay=0.0,  # AdamW without decay is Adam
    momentum=0.5,
    adam_eps=1e-4,
    learning_rate=1e-3,
    schedule="exponential",
    decay_factor=0.95,
    decay_steps=10_000,
    warmup_share=0.0,
    losses=("speech2face",),
    main_loss="speech2face",
)
