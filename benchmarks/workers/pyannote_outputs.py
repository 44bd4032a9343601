"""Outputs of checkpoints in pyannote.audio: CHECKPOINT WAVEFORMS.npy OUTPUTS.npy."""

import sys

import numpy as np
import torch
from pyannote.audio import Model

model = Model.from_pretrained(sys.argv[1]).eval()
with torch.inference_mode():
    output = model(torch.from_numpy(np.load(sys.argv[2])))
np.save(sys.argv[3], output.numpy())
