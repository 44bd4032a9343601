"""The examples of the document that raydiar was started from, with imports and names changed."""

import re
import wave

import numpy as np
import pytest
import torch

from raydiar import audio, hub
from raydiar.models import WeSpeakerResNet34
from raydiar.weights import SEGMENTATION_3_0

CONFIG = """
dependencies: {pyannote.audio: 4.0.0}
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params: {clustering: AgglomerativeClustering, segmentation: $model/segmentation,
           embedding: $model/embedding, embedding_exclude_overlap: true}
params: {clustering: {method: centroid, min_cluster_size: 12, threshold: 0.7},
         segmentation: {min_duration_off: 0.0}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, sample_wav):
    """A folder with audio.wav, and a clone of a pipeline."""
    home = tmp_path_factory.mktemp("seed")
    samples = audio.decode(sample_wav, start=8.0, duration=6.0)
    with wave.open(str(home / "audio.wav"), "wb") as file:
        file.setparams((1, 2, 16000, len(samples), "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    for folder in ("segmentation", "embedding"):
        (home / "clone" / folder).mkdir(parents=True)
    (home / "clone/config.yaml").write_text(CONFIG)
    (home / "clone/segmentation/pytorch_model.bin").symlink_to(hub.fetch(SEGMENTATION_3_0.uri))
    torch.manual_seed(0)
    torch.save(WeSpeakerResNet34().state_dict(), home / "clone/embedding/pytorch_model.bin")
    return home


@pytest.fixture
def snippet(shared, home, monkeypatch):
    """Code of the document below a heading, in the folder of its files."""
    text = (shared / "seed.txt").read_text()
    monkeypatch.chdir(home)

    def code(heading: str) -> str:
        block = text.partition(f"# {heading}\n")[2].partition("```python\n")[2].partition("```")[0]
        assert block, heading
        block = block.replace("pyannote.audio", "raydiar")
        return re.sub(r"pyannote/speaker-diarization-(community-1|3\.1)", "clone", block)

    return code


@pytest.mark.reference
def test_quick_start(snippet, capsys):
    exec(snippet("Community Open-Source Model"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(r"start=\d+\.\ds stop=\d+\.\ds speaker_SPEAKER_\d\d", x) for x in lines)


@pytest.mark.reference
def test_options_devices_and_output(snippet, home, pipeline, capsys):
    names = {"pipeline": pipeline}
    exec(snippet("Pipeline Parameters"), names)
    assert names["output"].num_speakers <= 3
    exec(snippet("GPU Acceleration").replace("cuda", "cpu"), names)
    exec(snippet("Output Format"), names)
    assert "Duration: " in capsys.readouterr().out
    lines = (home / "output.rttm").read_text().splitlines()
    assert lines
    assert all(line.startswith("SPEAKER audio 1 ") for line in lines)


@pytest.mark.reference
def test_the_network_of_a_pipeline(snippet):
    # The rest of this example trains.
    lines = snippet("Fine-tuning Pretrained Models").splitlines()
    names: dict = {}
    with pytest.warns(UserWarning, match="is a pipeline, not a network"):
        exec("\n".join(line for line in lines if "odel" in line and "rainer" not in line), names)
    assert names["model"].num_frames(160000) == 589
