"""Corrections of a job's turns: kept beside the machine's, exported, and labels to train with."""

import base64

import numpy as np
import pytest
from serving_services import answer, make_services
from test_serving_api import assert_problem, client_of, submit, upload

from raydiar.diarization import read_rttm
from raydiar.serving.results.exports import EXPORTS
from raydiar.serving.results.waveform import MAX_PEAKS, peaks

TURNS = [
    {"start": 0.5, "end": 4.25, "speaker": "SPEAKER_00"},
    {"start": 4.0, "end": 11.0, "speaker": "SPEAKER_01"},
]
NAMES = {"SPEAKER_00": "Ann Lee"}


@pytest.fixture
def services(tmp_path):
    return make_services(tmp_path)


@pytest.fixture
def client(services):
    return client_of(services)


@pytest.fixture
def job(client, services):
    """Its address."""
    upload(client)
    job_id = submit(client).json()["jobId"]
    claimed = services.jobs.claim("worker", 60.0)
    services.jobs.succeed(claimed, answer(claimed), "cGVha3M=")
    return f"/v1/jobs/{job_id}"


def save(client, job, base=0, turns=TURNS, names=NAMES):
    body = {"base": base, "turns": turns, "names": names}
    return client.put(f"{job}/corrections", json=body)


def test_a_correction_is_a_version_beside_the_machines(client, job):
    machine = client.get(f"{job}/corrections").json()
    assert (machine["version"], machine["versions"], len(machine["turns"])) == (0, [], 2)
    output = client.get(job).json()["output"]
    assert save(client, job).json() == {"version": 1}
    assert save(client, job, base=1, turns=TURNS[:1]).json() == {"version": 2}
    newest = client.get(f"{job}/corrections").json()
    assert (newest["version"], newest["turns"], newest["names"]) == (2, TURNS[:1], NAMES)
    assert [saved["version"] for saved in newest["versions"]] == [2, 1]
    first = client.get(f"{job}/corrections", params={"version": 1}).json()
    assert first["turns"] == TURNS
    again = client.get(f"{job}/corrections", params={"version": 0}).json()
    assert again["turns"] == machine["turns"]
    assert client.get(job).json()["output"] == output
    assert_problem(client.get(f"{job}/corrections", params={"version": 3}), 404, "version 3")


def test_two_who_correct_at_once_do_not_overwrite_each_other(client, job):
    assert save(client, job).status_code == 200
    assert_problem(save(client, job, turns=[]), 409, "Version 1 was saved meanwhile")
    assert client.get(f"{job}/corrections").json()["turns"] == TURNS


def test_corrections_are_their_owners(client, services, job):
    other = client_of(services, "bob")
    assert_problem(save(other, job), 404)
    for path in ("corrections", "export/rttm", "waveform"):
        assert_problem(other.get(f"{job}/{path}"), 404)


@pytest.mark.parametrize(
    "turn",
    [
        {"start": 2, "end": 1, "speaker": "a"},
        {"start": 1, "end": 1, "speaker": "a"},
        {"start": -1, "end": 1, "speaker": "a"},
        {"start": 0, "end": 1e9, "speaker": "a"},
        {"start": 0, "end": 1, "speaker": ""},
        {"start": 0, "end": 1, "speaker": "a\nb"},
        {"start": 0, "end": 1, "speaker": "a" * 101},
        {"start": 0, "end": 1},
        {"start": "x", "end": 1, "speaker": "a"},
    ],
)
def test_turns_that_are_none_are_refused(client, job, turn):
    assert_problem(save(client, job, turns=[turn]), 400, "turns")
    assert client.get(f"{job}/corrections").json()["version"] == 0


def test_a_job_without_turns_cannot_be_corrected(client, services):
    upload(client)
    job_id = submit(client).json()["jobId"]
    assert_problem(save(client, f"/v1/jobs/{job_id}"), 404, "no turns")
    assert_problem(client.get("/v1/jobs/x/corrections"), 404, "no such job")


def test_every_export_holds_names_and_corrected_times(client, job):
    save(client, job)
    texts = {}
    for form, (kind, ending) in EXPORTS.items():
        got = client.get(f"{job}/export/{form}", params={"name": "our talk.wav"})
        assert got.status_code == 200
        assert got.headers["Content-Type"].startswith(kind)
        assert got.headers["Content-Disposition"].endswith(f"our_talk{ending}")
        texts[form] = got.text
    assert texts["rttm"].splitlines()[0].split()[:8] == (
        ["SPEAKER", "our_talk", "1", "0.500", "3.750", "<NA>", "<NA>", "Ann_Lee"]
    )
    assert texts["srt"].startswith("1\n00:00:00,500 --> 00:00:04,250\n[Ann Lee]\n\n2\n")
    assert "<v Ann Lee>Ann Lee</v>" in texts["vtt"]
    assert texts["audacity"].splitlines()[0].split("\t") == ["0.500000", "4.250000", "Ann Lee"]
    assert "Ann Lee" in texts["csv"]
    assert '"Ann Lee"' in texts["json"]
    machine = client.get(f"{job}/export/rttm", params={"version": 0}).text
    assert "Ann" not in machine
    assert_problem(client.get(f"{job}/export/exe"), 400, "form")


def test_corrected_turns_are_read_as_labels(client, job, tmp_path):
    save(client, job)
    labels = tmp_path / "talk.rttm"
    labels.write_text(client.get(f"{job}/export/rttm", params={"name": "talk.wav"}).text)
    [talk] = read_rttm(labels).values()
    assert [(t.start, t.end, t.speaker) for t in talk.turns] == [
        (0.5, 4.25, "Ann_Lee"),
        (4.0, 11.0, "SPEAKER_01"),
    ]


def test_the_waveform_is_given(client, job):
    assert client.get(f"{job}/waveform").json() == {"peaks": "cGVha3M=", "seconds": 0.3}


@pytest.mark.parametrize("seconds", [0, 0.001, 1, 3600])
def test_peaks_are_few_and_as_loud_as_the_recording(seconds):
    samples = np.zeros(int(16_000 * seconds), np.int16)
    samples[len(samples) // 2 :] = -8192
    values = np.frombuffer(base64.b64decode(peaks(samples)), np.uint8)
    assert len(values) <= MAX_PEAKS
    if seconds >= 1:
        assert set(values[: len(values) // 2 - 1]) == {0}
        assert set(values[len(values) // 2 + 1 :]) == {128}  # a quarter of full scale, by root
