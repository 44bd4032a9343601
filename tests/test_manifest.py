"""Manifests: what is read from them, and how a wrong one is refused before any work."""

import glob
import gzip
import json
import os
from pathlib import Path

import fsspec
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web_storage import serving

from raydiar.corpus.hashes import hash_ids
from raydiar.corpus.inputs.manifest import check_unique, read_manifest
from raydiar.corpus.inputs.sources import list_audio, write_manifest
from raydiar.errors import ManifestError
from raydiar.naming import local_path
from raydiar.storage import open_source


def rows_of(uri, probe=None) -> list[dict]:
    return [row for batch in read_manifest(str(uri), probe).batches() for row in batch.to_pylist()]


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


ROWS = [
    {"uri": "s3://bucket/a.mp3", "language": "en"},
    {"uri": "/data/b.wav", "start": 10.5, "duration": 20.0, "num_speakers": 2, "language": "nl"},
    {"uri": "c/d.flac", "channel": 1, "recording_id": "call 7", "max_speakers": 4},
]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "csv.gz"])
def test_every_format_gives_the_same_recordings(tmp_path, kind):
    path = tmp_path / f"manifest.{kind}"
    frame = pandas.DataFrame(ROWS)  # integers with gaps become floats, as they do for users
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        write_jsonl(path, ROWS)
    else:
        frame.to_csv(path, index=False)  # compressed by its name

    first, second, third = rows_of(path)

    assert first["recording_id"] == first["uri"] == "s3://bucket/a.mp3"
    assert first["start"] is None
    assert first["channel"] is None
    assert second["recording_id"] == "/data/b.wav#t=10.5,30.5"
    assert (second["start"], second["duration"], second["num_speakers"]) == (10.5, 20.0, 2)
    assert third["recording_id"] == "call 7"
    assert third["channel"] == "1"
    assert third["max_speakers"] == 4
    assert [row["language"] for row in (first, second, third)] == ["en", "nl", None]
    # relative to the manifest, not to where the job happens to be started
    assert third["uri"] == f"{tmp_path}/c/d.flac"


def test_default_ids_tell_excerpts_and_channels_apart(tmp_path):
    rows = [
        {"uri": "/a.wav", "start": 5},
        {"uri": "/a.wav", "duration": 5},
        {"uri": "/a.wav", "channel": 0},
        {"uri": "/a.wav", "start": 1, "duration": 2, "channel": 1},
        {"uri": "/a.wav", "channel": "mix"},
    ]
    ids = [row["recording_id"] for row in rows_of(write_jsonl(tmp_path / "m.jsonl", rows))]
    assert ids == [
        "/a.wav#t=5",
        "/a.wav#t=0,5",
        "/a.wav#channel=0",
        "/a.wav#t=1,3#channel=1",
        "/a.wav",
    ]


def test_split_becomes_one_recording_per_channel(tmp_path):
    rows = [
        {"uri": "/two.wav", "channel": "split"},
        {"uri": "/broken.wav", "channel": "split", "recording_id": "broken"},
        {"uri": "/one.wav"},
    ]
    channels = {"/two.wav": 2, "/broken.wav": None}
    found = rows_of(write_jsonl(tmp_path / "m.jsonl", rows), probe=channels.get)
    assert [(row["recording_id"], row["channel"]) for row in found] == [
        ("/two.wav#channel=0", "0"),
        ("/two.wav#channel=1", "1"),
        ("broken", "split"),  # stays one row, for decoding to say what is wrong
        ("/one.wav", None),
    ]


def test_carried_columns_keep_their_types(tmp_path):
    table = pa.table(
        {
            "uri": ["/a.wav", "/b.wav"],
            "episode": pa.array([7, None], pa.int16()),
            "aired": pa.array([0, 1], pa.timestamp("ms")),
            "genre": pa.array(["news", "news"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    carried = read_manifest(str(tmp_path / "m.parquet")).carried
    assert carried.types == [pa.int16(), pa.timestamp("ms"), pa.string()]

    # the type of `score` shows only in the last line, far behind the first batch
    rows = [{"uri": f"/{n}.wav", "score": 1} for n in range(9000)]
    rows.append({"uri": "/last.wav", "score": 0.5, "phone": "007"})
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    carried = read_manifest(str(path)).carried
    assert carried.types == [pa.float64(), pa.string()]
    assert rows_of(path)[0]["score"] == 1.0
    assert rows_of(path)[-1]["phone"] == "007"

    (tmp_path / "m.csv").write_text("uri,phone\n/a.wav,007\n")
    assert rows_of(tmp_path / "m.csv")[0]["phone"] == "007"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("uri,start\n/a.wav,1\n/b.wav,soon\n", "line 3: column 'start' is 'soon'"),
        ("uri,start\n/a.wav,-1\n", "line 2: column 'start' is '-1'"),
        ("uri,duration\n\n/a.wav,0\n", "line 3: column 'duration' is '0'"),
        ("uri,duration\n/a.wav,nan\n", "line 2: column 'duration'"),
        ("uri,channel\n/a.wav,left\n", "line 2: column 'channel' is 'left'"),
        ("uri,channel\n/a.wav,1.5\n", "line 2: column 'channel'"),
        ("uri,num_speakers\n/a.wav,0\n", "line 2: column 'num_speakers'"),
        ("uri,min_speakers,max_speakers\n/a.wav,3,2\n", "line 2: column 'min_speakers'"),
        ("uri,title\n,x\n", "line 2: column 'uri' is missing"),
        ("uri,title\n/a.wav\n", "line 2: 1 values for 2 columns"),
        ("path\n/a.wav\n", "has no column `uri`; it has: path"),
        ("uri,status\n/a.wav,new\n", "column 'status' collides"),
        ("uri,Turns\n/a.wav,new\n", "column 'Turns' collides"),
        ("uri,uri\n/a.wav,/a.wav\n", "two columns of one name"),
        ("", "has no column `uri`"),
    ],
)
def test_a_wrong_csv_is_refused_by_line_and_column(tmp_path, text, complaint):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ManifestError) as refusal:
        rows_of(tmp_path / "m.csv")
    assert complaint in str(refusal.value)
    assert "m.csv" in str(refusal.value)


def test_other_wrong_manifests_are_refused(tmp_path):
    def refusal(path) -> str:
        with pytest.raises(ManifestError) as caught:
            rows_of(path)
        return str(caught.value)

    assert "no manifest at" in refusal(tmp_path / "absent.parquet")
    (tmp_path / "m.txt").write_text("/a.wav\n")
    assert "cannot tell the format" in refusal(tmp_path / "m.txt")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    assert "cannot be read as Parquet" in refusal(tmp_path / "broken.parquet")
    (tmp_path / "m.jsonl").write_text('{"uri": "/a.wav"}\n{"uri": \n')
    assert "line 2 is not JSON" in refusal(tmp_path / "m.jsonl")
    assert "line 1: column 'tags' is nested" in refusal(
        write_jsonl(tmp_path / "m.jsonl", [{"uri": "/a.wav", "tags": ["x"]}])
    )
    assert "line 2: column 'tag' is 'x', but int64 before" in refusal(
        write_jsonl(tmp_path / "m.jsonl", [{"uri": "/a.wav", "tag": 1}, {"uri": "/", "tag": "x"}])
    )
    pq.write_table(pa.table({"uri": ["/a.wav"], "tags": [["x"]]}), tmp_path / "m.parquet")
    assert "column 'tags' is list" in refusal(tmp_path / "m.parquet")
    pq.write_table(pa.table({"uri": ["/a.wav"] * 2, "start": [1.0, -1.0]}), tmp_path / "m.parquet")
    assert "row 2: column 'start' is -1.0" in refusal(tmp_path / "m.parquet")


def test_the_first_ten_duplicates_are_named(tmp_path):
    rows = [{"uri": f"/{n}.wav"} for n in range(20000)]
    path = write_jsonl(tmp_path / "m.jsonl", rows)

    def check():
        manifest = read_manifest(str(path))
        ids = [hash_ids(b.column("recording_id").to_pylist()) for b in manifest.batches()]
        check_unique(manifest, np.concatenate(ids))

    check()
    write_jsonl(path, rows + [{"uri": f"/{n}.wav"} for n in range(12, 0, -1)])
    with pytest.raises(ManifestError, match="12 recording ids more than once") as refusal:
        check()
    named = [line.strip() for line in str(refusal.value).splitlines() if line.startswith("  ")]
    assert named == [f"/{n}.wav" for n in range(1, 11)]


def test_a_folder_becomes_a_manifest(tmp_path):
    audio = tmp_path / "audio"
    for name in ("b.MP3", "talk/a.wav", "talk/notes.txt", ".hidden.wav", "_raydiar/x.wav"):
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        (audio / name).write_bytes(b"12345")
    manifest = str(tmp_path / "new" / "m.parquet")

    assert write_manifest(str(audio), manifest) == 2
    assert [(row["uri"], row["size"]) for row in rows_of(manifest)] == [
        (f"{audio}/b.MP3", 5),
        (f"{audio}/talk/a.wav", 5),
    ]
    assert write_manifest(f"{audio}/**/*.txt", manifest) == 1
    with pytest.raises(ManifestError, match="no audio"):
        write_manifest(f"{audio}/none/", manifest)


def test_a_folder_is_listed_once_and_whole(tmp_path):
    audio = tmp_path / "audio"
    for name in ("a.wav", "x/b.wav", "x/y/c.wav", "x/s.tar", "out/ok-run-1.parquet"):
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        (audio / name).write_bytes(b"12345")
    (audio / "x" / "loop").symlink_to(audio, target_is_directory=True)
    (audio / "x" / "gone.wav").symlink_to(tmp_path / "nowhere")

    def names(source, **options):
        return [uri.removeprefix(f"{audio}/") for uri, _ in list_audio(str(source), **options)]

    found = ["a.wav", "x/b.wav", "x/gone.wav", "x/s.tar", "x/y/c.wav"]
    assert names(audio, without=str(audio / "out")) == found
    assert names(f"{audio}/*.wav") == ["a.wav"]
    assert names(f"{audio}/x/*/*.wav") == ["x/y/c.wav"]
    assert names(f"{audio}/**/[bc].wav") == ["x/b.wav", "x/y/c.wav"]
    assert names(audio / "x/b.wav") == ["x/b.wav"]
    assert dict(list_audio(str(audio)))[f"{audio}/x/gone.wav"] is None  # decoding will say so


def test_other_storage_is_listed_by_folders():
    fs = fsspec.filesystem("memory")
    for name in ("a.wav", "x/b.mp3", "x/_hidden/c.wav", "x/notes.txt"):
        fs.pipe_file(f"/corpus/{name}", b"12345")
    found = list(list_audio("memory://corpus"))
    assert found == [("memory:///corpus/a.wav", 5), ("memory:///corpus/x/b.mp3", 5)]
    assert [uri for uri, _ in list_audio("memory://corpus/*/*.t?t")] == [
        "memory:///corpus/x/notes.txt"
    ]


def test_names_of_any_kind_are_listed_and_read(tmp_path):
    """As yt-dlp writes them, and as old disks hold them."""
    folder = tmp_path / "Talks [2024]"
    (folder / "sub").mkdir(parents=True)
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")
    names = {str(folder / name) for name in ("Title [x7].wav", "what? *.mp3", "sub/Title [x7].wav")}
    for path in (*names, odd):
        Path(path).write_bytes(b"1")
    manifest = str(tmp_path / "list.parquet")
    assert write_manifest(str(folder), manifest) == 4
    assert write_manifest(folder.as_uri(), manifest) == 4
    rows = rows_of(manifest)
    assert {local_path(row["uri"]) for row in rows} == {*names, odd}
    assert len({row["recording_id"] for row in rows}) == 4  # equal names, other folders
    for row in rows:
        assert row["recording_id"] == row["uri"]
        with open_source(row["uri"]) as reader:
            assert reader.read() == b"1"
    for one in ("Title [x7].wav", "what? *.mp3"):
        assert [uri for uri, _ in list_audio(str(folder / one))] == [str(folder / one)]
    assert len(list(list_audio(glob.escape(str(folder)) + "/*.wav"))) == 2


def test_nemo_manifests_are_understood(tmp_path):
    path = tmp_path / "manifest.json"
    line = {"audio_filepath": "talks/a.wav", "offset": 12.5, "duration": 30, "label": "infer"}
    line |= {"text": "-", "num_speakers": None, "rttm_filepath": None}
    write_jsonl(path, [line, line | {"audio_filepath": "/b.wav", "offset": 0, "duration": None}])
    first, second = rows_of(path)
    assert first["uri"] == f"{tmp_path}/talks/a.wav"
    assert (first["start"], first["duration"], first["label"]) == (12.5, 30.0, "infer")
    assert first["recording_id"] == f"{tmp_path}/talks/a.wav#t=12.5,42.5"
    assert (second["uri"], second["duration"]) == ("/b.wav", None)
    assert set(first) & {"audio_filepath", "offset"} == set()
    # beside `uri`, these columns are somebody's own
    write_jsonl(path, [line | {"uri": "c.wav"}])
    [row] = rows_of(path)
    assert (row["uri"], row["start"], row["offset"]) == (f"{tmp_path}/c.wav", None, 12.5)


def test_a_manifest_behind_a_signed_url(tmp_path):
    table = b"uri,language\na.wav,en\nhttps://other/b.wav?sig=5ec4e7/x,nl\n"
    with serving({"/in/my%20list.csv.gz": gzip.compress(table)}) as web:
        uri = f"{web.url}/in/my%20list.csv.gz?X-Amz-Signature=5ec4e7/abc"
        first, second = rows_of(uri)
        assert first["uri"] == f"{web.url}/in/a.wav"
        assert second["uri"] == "https://other/b.wav?sig=5ec4e7/x"  # as it is asked for
        assert second["recording_id"] == "https://other/b.wav"
        with pytest.raises(ManifestError) as refused:
            read_manifest(f"{web.url}/in/absent.csv?X-Amz-Signature=5ec4e7")
        assert "5ec4e7" not in str(refused.value)


def test_urls_that_differ_in_their_query_need_ids(tmp_path):
    rows = [{"uri": f"https://host/download?id={n}"} for n in range(2)]
    manifest = read_manifest(str(write_jsonl(tmp_path / "m.jsonl", rows)))
    ids = [row["recording_id"] for row in rows_of(tmp_path / "m.jsonl")]
    with pytest.raises(ManifestError, match="give each its own `recording_id`: URLs that differ"):
        check_unique(manifest, hash_ids(ids))
