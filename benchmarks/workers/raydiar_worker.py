"""raydiar's side: `raydiar_worker.py [EMBEDDING]`, by default the embedded default pipeline."""

import sys
from dataclasses import replace

from serve import serve

from raydiar.pipelines import SpeakerDiarization
from raydiar.pipelines.config import DEFAULT, Weights

config = DEFAULT
if len(sys.argv) > 1:
    config = replace(config, embedding=Weights(sys.argv[1]))
pipeline = SpeakerDiarization(config.localize())
serve(lambda path: pipeline({"audio": path, "uri": "clip"}).to_rttm())
