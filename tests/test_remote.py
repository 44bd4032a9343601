"""Diarization by a service: our own server, and one that misbehaves by script."""

import io
import json

import numpy as np
import pytest
from scripted_web import hang_up, in_turn
from scripted_web import serving as scripted
from serving_services import answer, make_services, serving, working

from raydiar import Pipeline, audio
from raydiar.errors import (
    AudioDecodeError,
    ConfigError,
    RemoteDenied,
    RemoteJobFailed,
    RemoteRefused,
    RemoteUnavailable,
)
from raydiar.pipelines import remote_client
from raydiar.pipelines.remote import RemoteDiarization, remote_model

KEY = "a key of the service"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote_client, "_FIRST_LOOK", 0.01)
    monkeypatch.setattr(remote_client, "_LONGEST_WAIT", 0.01)
    for name in ("PYANNOTEAI_API_KEY", "PYANNOTEAI_API_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def talk_wav(talk, tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(talk)
    return path


# -- our own server ----------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    services = make_services(tmp_path / "server")
    with serving(services) as served:
        yield served


@pytest.mark.parametrize("model", ["precision-2", "precision-3"])
def test_our_own_server(model, served, talk_wav, monkeypatch):
    _, secret = served.keys.create("ann")
    monkeypatch.setenv("PYANNOTEAI_API_URL", served.media.public_url)
    pipeline = Pipeline.from_pretrained(f"pyannote/speaker-diarization-{model}", token=secret)
    seen = []

    def work(job):
        seen.append(job.request)
        return answer(job)

    steps = []
    with working(served.jobs, work):
        output = pipeline(
            talk_wav, max_speakers=3, hook=lambda step, *_, **counts: steps.append((step, counts))
        )
    assert [(t.start, t.end, t.speaker) for t in output.turns] == [
        (0.0, 5.0, "SPEAKER_00"),
        (4.0, 12.0, "SPEAKER_01"),
    ]
    assert output.turns[0].confidence == pytest.approx(0.91)
    assert [t.end for t in output.exclusive_turns] == [4.5, 12.0]
    assert len(output.exclusive_speaker_diarization) == 2
    assert f"{model} is not available" in output.warnings[0]
    assert seen == [{"maxSpeakers": 3, "turnLevelConfidence": True, "exclusive": True}]
    sent = [counts["completed"] for step, counts in steps if step == "upload"]
    assert sent[0] == 0
    assert sent[-1] == talk_wav.stat().st_size
    assert steps[-1][0] == "discrete_diarization"


def test_many_recordings_of_every_kind(served, talk, talk_wav, tmp_path):
    _, secret = served.keys.create("ann")
    pipeline = RemoteDiarization(token=secret, base_url=served.media.public_url + "/v1/")
    (tmp_path / "broken.wav").write_bytes(b"no audio" * 100)
    samples = audio.decode(talk_wav).astype(np.float32)[None] / 32768
    files = [
        talk_wav,
        tmp_path / "broken.wav",
        {"audio": io.BytesIO(talk), "uri": "file object"},
        {"waveform": samples, "sample_rate": 16000, "uri": "tensor"},
        {"audio": talk_wav, "start": 2.0, "duration": 1.5, "uri": "excerpt"},
        tmp_path / "absent.wav",
    ]
    failed = []
    with working(served.jobs):
        found = list(pipeline(files, on_error=lambda file, error: failed.append(error)))
    assert [output.uri for _, output in found] == ["talk", "file object", "tensor", "excerpt"]
    assert [file for file, _ in found] == [files[0], *files[2:5]]
    assert [type(error).__name__ for error in failed] == ["AudioDecodeError", "AudioNotFound"]
    assert found[3][1].turns[0].start == 2.0, "an excerpt has the times of its file"
    with pytest.raises(AudioDecodeError):
        pipeline(files[1])


def test_our_server_says_why(served, talk_wav):
    with pytest.raises(RemoteDenied, match="API key"):
        RemoteDiarization(token="wrong", base_url=served.media.public_url)
    _, secret = served.keys.create("ann")
    pipeline = RemoteDiarization("precision-2", secret, served.media.public_url)

    def work(job):
        raise ValueError("not even audio")

    with working(served.jobs, work), pytest.raises(RemoteJobFailed, match="not even audio"):
        pipeline(talk_wav)
    pipeline.timeout = 0.05
    with pytest.raises(RemoteJobFailed, match="still"):
        pipeline(talk_wav)
    with pytest.raises(ConfigError, match="no parameters"):
        pipeline.instantiate({"clustering": {"threshold": 0.5}})
    with pytest.raises(ConfigError):
        pipeline(talk_wav, min_speakers=3, max_speakers=2)


# -- a scripted one ----------------------------------------------------------------------------


def told(document, status=200, **headers):
    body = json.dumps(document).encode()
    return lambda handler: handler.send(status, body, **headers)


@pytest.fixture
def web():
    paths = {"/v1/test": told({"status": "OK"})}
    with scripted(paths) as web:
        job = {"jobId": "j", "status": "created"}
        output = {"diarization": [{"start": 0, "end": 1, "speaker": "A"}]}
        paths |= {
            "/v1/media/input": told({"url": f"{web.url}/put?signature=1"}),
            "/put": told({}),
            "/v1/diarize": told(job),
            "/v1/jobs/j": told({**job, "status": "succeeded", "output": output}),
        }
        yield web


def asked(web, path):
    return [request for request in web.requests if request[1].partition("?")[0] == path]


def test_what_is_sent(web, talk, talk_wav):
    pipeline = RemoteDiarization("precision-3", KEY, web.url)
    output = pipeline(talk_wav, num_speakers=2)
    assert output.labels() == ["A"]
    assert output.duration == pytest.approx(5.0)
    for path in ("/v1/test", "/v1/media/input", "/v1/diarize", "/v1/jobs/j"):
        assert asked(web, path)[0][2]["Authorization"] == f"Bearer {KEY}"
    [(method, _, headers, body)] = asked(web, "/put")
    assert (method, body) == ("PUT", talk), "a file goes as it is"
    assert not {"Authorization", "Content-Type"} & set(headers), "the URL is signed without them"
    media = json.loads(asked(web, "/v1/media/input")[0][3])["url"]
    request = json.loads(asked(web, "/v1/diarize")[0][3])
    assert request == {
        "url": media,
        "model": "precision-3",
        "numSpeakers": 2,
        "turnLevelConfidence": True,
        "exclusive": True,
    }


def test_what_passes_is_asked_again(web, talk, talk_wav):
    succeeded = web.paths["/v1/jobs/j"]
    web.paths["/v1/test"] = in_turn(told({}, 503), told({}))
    web.paths["/put"] = in_turn(hang_up, told({}, 500), told({}))
    web.paths["/v1/diarize"] = in_turn(
        told({"message": "slow down"}, 429, Retry_After="0"), web.paths["/v1/diarize"]
    )
    web.paths["/v1/jobs/j"] = in_turn(
        told({"status": "pending"}), hang_up, told({"status": "running"}), succeeded
    )
    assert RemoteDiarization("precision-2", KEY, web.url)(talk_wav).labels() == ["A"]
    assert [body for *_, body in asked(web, "/put")][-1] == talk, "from its beginning again"


@pytest.mark.parametrize(
    ("path", "act", "error", "message"),
    [
        ("/v1/diarize", told({"message": "pay first"}, 402), RemoteDenied, "pay first"),
        ("/v1/media/input", told({"message": "no"}, 403), RemoteDenied, "API key"),
        (
            "/v1/diarize",
            told({"message": "bad", "errors": [{"field": "model", "message": "?!"}]}, 400),
            RemoteRefused,
            r"bad; model: \?!",
        ),
        ("/v1/diarize", told({}), RemoteJobFailed, "no job"),
        ("/v1/diarize", told({"message": "busy"}, 503), RemoteUnavailable, "busy .*6 times"),
        ("/v1/media/input", told({"url": "ftp://x"}), RemoteUnavailable, "no address"),
        ("/v1/media/input", told(["a list"]), RemoteUnavailable, "JSON object"),
        (
            "/v1/jobs/j",
            told({"status": "failed", "output": {"error": "too quiet"}}),
            RemoteJobFailed,
            "too quiet",
        ),
        ("/v1/jobs/j", told({"status": "canceled"}), RemoteJobFailed, "canceled"),
        ("/v1/jobs/j", told({"message": "gone"}, 404), RemoteRefused, "gone"),
        (
            "/v1/jobs/j",
            told({"status": "succeeded", "output": {"diarization": [{"start": 1}]}}),
            RemoteJobFailed,
            "no diarization",
        ),
        ("/v1/jobs/j", told({"status": "succeeded"}), RemoteJobFailed, "no diarization"),
    ],
)
def test_what_goes_wrong_is_told(path, act, error, message, web, talk_wav):
    web.paths[path] = act
    with pytest.raises(error, match=message):
        RemoteDiarization("precision-2", KEY, web.url)(talk_wav)


def test_the_key_goes_nowhere_else(web, talk_wav):
    with scripted({"/v1/diarize": told({"jobId": "j"})}) as elsewhere:
        web.paths["/v1/diarize"] = lambda handler: handler.send(
            307, Location=f"{elsewhere.url}/v1/diarize"
        )
        with pytest.raises(RemoteUnavailable, match="final address"):
            RemoteDiarization("precision-2", KEY, web.url)(talk_wav)
        assert not elsewhere.requests


def test_names_keys_and_addresses(web):
    assert remote_model("pyannote/speaker-diarization-precision-2") == "precision-2"
    assert remote_model("pyannote/speaker-diarization-precision-3.1") == "precision-3.1"
    for local in ("pyannote/speaker-diarization-3.1", None, {}, "precision-2"):
        assert remote_model(local) is None
    with pytest.raises(ConfigError, match="PYANNOTEAI_API_KEY"):
        RemoteDiarization(base_url=web.url)
    with pytest.raises(ConfigError, match="https://"):
        RemoteDiarization(token=KEY, base_url="api.pyannote.ai")
    with pytest.raises(ConfigError, match="no user"):
        RemoteDiarization(token=KEY, base_url="https://ann:word@api.pyannote.ai")
    with pytest.raises(RemoteUnavailable, match="cannot be reached"):
        RemoteDiarization(token=KEY, base_url="http://127.0.0.1:9")
