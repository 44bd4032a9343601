"""A recording that is to be forgotten is nowhere afterwards: not in old files, not in caches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import object_store
from typer.testing import CliRunner
from voiceprint_corpus import Voices, conversations, write_dataset

from raydiar.cli import app
from raydiar.errors import VoiceprintIndexError, VoiceprintNotFound
from raydiar.voiceprints import builder, forgetting
from raydiar.voiceprints.forgetting import forget_recordings
from raydiar.voiceprints.identities import FILE, read_identities
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.linking import LinkingParameters, link_into
from raydiar.voiceprints.segment_writer import Layout

VICTIM = "recording-0007"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    recordings, _ = conversations(Voices(30), 60)
    return write_dataset(tmp_path_factory.mktemp("corpus") / "out", recordings)


def numbers(index: VoiceprintIndex) -> list[bytes]:
    """A voiceprint of the victim as float32, and as int8."""
    vector = index.vectors([index.id_of(VICTIM, "SPEAKER_01")])[0]
    scaled = np.rint(vector * (127 / np.abs(vector).max()))
    return [vector.astype("<f4").tobytes(), scaled.astype("i1").tobytes()]


def holding(files: dict[str, bytes], needles: list[bytes]) -> list[str]:
    """Files with one of the needles, or with the victim's name in a table."""
    found = [name for name, data in files.items() if any(n in data for n in needles)]
    for name, data in files.items():
        if name.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            if "recording_id" in table.column_names:
                found += [name] if VICTIM in table["recording_id"].to_pylist() else []
    return found


def content(*folders) -> dict[str, bytes]:
    paths = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths}


@pytest.mark.parametrize("kind", ["exact", "pq-fastscan", "ivf-rabitq", "ivf-sq8"])
def test_nothing_of_a_recording_is_left(kind, corpus, tmp_path):
    index, people = str(tmp_path / "index"), str(tmp_path / "people")
    builder.build(index, [corpus], layout=Layout(kind=kind, num_lists=2))
    link_into(people, VoiceprintIndex.open(index), parameters=LinkingParameters(threshold=0.5))
    identities, _ = read_identities(people)
    needles = numbers(VoiceprintIndex.open(index))
    assert holding(content(index, people), needles)
    forgotten = forget_recordings(index, [VICTIM], [people])
    assert (forgotten.voiceprints, forgotten.identities) == (2, 2)
    assert forgotten.datasets == (corpus,)
    assert "still hold them" in str(forgotten)
    assert not holding(content(index, people), needles)
    assert len(VoiceprintIndex.open(index)) == 118
    left, _ = read_identities(people)
    assert len(left) == len(identities) - 2
    # who is left keeps their number, and numbers that were given are not given again
    before = {(r["recording_id"], r["speaker"]): r["identity"] for r in identities.to_pylist()}
    assert all(before[r["recording_id"], r["speaker"]] == r["identity"] for r in left.to_pylist())
    assert left.schema.metadata == identities.schema.metadata
    with pytest.raises(VoiceprintNotFound, match="holds nothing of the recording 'recording-0007'"):
        forget_recordings(index, [VICTIM], [people])


def test_what_was_deleted_before_is_wiped_from_older_files_too(corpus, tmp_path):
    index = str(tmp_path / "index")
    builder.build(index, [corpus])
    needles = numbers(VoiceprintIndex.open(index))
    builder.delete(index, [VICTIM])
    assert holding(content(index), needles), "a deletion only marks"
    forget_recordings(index, ["recording-0001"])
    assert not holding(content(index), needles)


def test_caches_of_this_machine_forget(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDIAR_CACHE", str(tmp_path / "cache"))
    with object_store(monkeypatch) as objects:
        uri = "s3://bucket/index"
        builder.build(uri, [corpus])
        needles = numbers(VoiceprintIndex.open(uri))
        assert holding(content(tmp_path / "cache"), needles)
        forget_recordings(uri, [VICTIM])
        assert len(VoiceprintIndex.open(uri)) == 118
        assert not holding(content(tmp_path / "cache"), needles)
        assert not holding(dict(objects), needles)


def test_what_could_not_be_wiped_is_told(corpus, tmp_path, monkeypatch):
    index = str(tmp_path / "index")
    builder.build(index, [corpus])
    monkeypatch.setattr(forgetting.builder, "vacuum", lambda *_, **__: 0)
    with pytest.raises(VoiceprintIndexError, match="still holds"):
        forget_recordings(index, [VICTIM])


def test_the_command_forgets_and_says_so(corpus, tmp_path):
    index, people = str(tmp_path / "index"), str(tmp_path / "people")
    builder.build(index, [corpus])
    link_into(people, VoiceprintIndex.open(index), parameters=LinkingParameters(threshold=0.5))
    command = ["voiceprint", "forget", index, VICTIM, "--people", people]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 voiceprints and 2 rows of identities forgotten; nothing of them" in result.stdout
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "holds nothing of the recording" in again.stderr
    assert VICTIM not in pq.read_table(Path(people) / FILE)["recording_id"].to_pylist()
