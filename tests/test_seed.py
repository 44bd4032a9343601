"""The examples of the document that raydiar was started from, with imports and names changed."""

import os
import re
import subprocess
import sys
import wave

import numpy as np
import pytest
import torch
from serving_services import answer, make_services, serving, working

from raydiar import audio, hub
from raydiar.models import WeSpeakerResNet34
from raydiar.pipelines import remote_client
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


@pytest.mark.reference
def test_a_premium_model(snippet, tmp_path, monkeypatch, capsys):
    """On our own server, with a key of it."""
    monkeypatch.setattr(remote_client, "_FIRST_LOOK", 0.01)
    monkeypatch.setattr(remote_client, "_LONGEST_WAIT", 0.01)
    with serving(make_services(tmp_path / "server")) as served:
        _, secret = served.keys.create("ann")
        monkeypatch.setenv("PYANNOTEAI_API_URL", served.media.public_url)
        code = snippet("Premium pyannoteAI API").replace("PYANNOTEAI_API_KEY", secret)
        with working(served.jobs, answer):
            exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["start=0.0s stop=5.0s SPEAKER_00", "start=4.0s stop=12.0s SPEAKER_01"]


@pytest.mark.reference
def test_telemetry_is_turned_on_and_off(shared, tmp_path):
    text = (shared / "seed.txt").read_text().partition("## Telemetry")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    code = code.replace("pyannote.audio", "raydiar") + "\nfrom raydiar import telemetry\n"
    on, off = code.partition("# Disable")[0], code
    for lines, expected in ((on, True), (off, False)):
        told = lines + "\nfrom raydiar import telemetry\nprint(telemetry.is_enabled())"
        environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
        done = subprocess.run(
            [sys.executable, "-c", told], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{expected}\n"
