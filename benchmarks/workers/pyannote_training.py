"""pyannote.audio's own trainer on a folder of conversations: windows a second, as JSON.

python pyannote_training.py FOLDER STEPS BATCH_SIZE, in an environment with pyannote.audio 4.
"""

import json
import os
import sys
import time
from pathlib import Path

import lightning
import soundfile
import torch
from pyannote.audio import Model
from pyannote.audio.core.io import Audio
from pyannote.audio.tasks import SpeakerDiarization
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database.protocol import SpeakerDiarizationProtocol

folder, steps, batch_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Conversations(SpeakerDiarizationProtocol):
    name = "Conversations"
    scope = "file"

    def train_iter(self):
        for path in sorted(folder.glob("*.rttm")):
            annotation = Annotation(uri=path.stem)
            for number, line in enumerate(path.read_text().splitlines()):
                parts = line.split()
                start, duration = float(parts[3]), float(parts[4])
                annotation[Segment(start, start + duration), number] = parts[7]
            yield {
                "uri": path.stem,
                "database": "Conversations",
                "audio": str(path.with_suffix(".wav")),
                "annotation": annotation,
                "annotated": Timeline([Segment(0, 60)]),
                "scope": "file",
            }


def crop(self, file, segment, **_):
    """Excerpts of wav files, by soundfile: its torchcodec does not load beside every torch."""
    first, number = round(segment.start * 16000), round(segment.duration * 16000)
    samples, rate = soundfile.read(file["audio"], number, first, dtype="float32")
    return torch.from_numpy(samples)[None], rate


Audio.crop = crop


class Clock(lightning.Callback):
    """Of the steps after the first, whose start is not theirs."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        now = time.perf_counter()
        if not hasattr(self, "begun"):
            self.begun, self.first = now, batch_idx
        self.ended, self.last = now, batch_idx


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
model = Model.from_pretrained(folder / "parent.ckpt")
task = SpeakerDiarization(
    Conversations(),
    duration=10.0,
    max_speakers_per_chunk=3,
    max_speakers_per_frame=2,
    batch_size=batch_size,
    num_workers=1,
)
model.task = task
clock = Clock()
trainer = lightning.Trainer(
    max_steps=steps + 1,
    accelerator="cpu",
    devices=1,
    logger=False,
    callbacks=[clock],
    enable_checkpointing=False,
    enable_progress_bar=False,
    limit_val_batches=0,
    num_sanity_val_steps=0,
    gradient_clip_val=5.0,
)
trainer.fit(model)
speed = (clock.last - clock.first) * batch_size / (clock.ended - clock.begun)
print(json.dumps({"windows_per_second": speed}))
