"""A voiceprint index of a million voices: built, opened, searched, linked.

The voices are made up, with the spread that voiceprints of the default embedding have (see
`tests/voiceprint_corpus.py`): four recordings of a person on average, two speakers a recording.
Each step runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich import print

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from voiceprint_corpus import DIMENSION, PIPELINE, Voices  # noqa: E402

from raydiar.corpus.output import dataset  # noqa: E402
from raydiar.evaluation.linking import linking_scores  # noqa: E402
from raydiar.storage.folder import Folder  # noqa: E402
from raydiar.voiceprints import builder  # noqa: E402
from raydiar.voiceprints.index import VoiceprintIndex  # noqa: E402
from raydiar.voiceprints.linking import LinkingParameters, link  # noqa: E402

PER_PERSON = 4
SPREAD = 1.6  # cosines of about 0.6 within a person, as between a microphone and a telephone
BLOCK = 100_000  # voices of a file
# far above the cosines of different people, far below those of one
LINK_THRESHOLD = 0.5


def people_of(num_voices: int) -> np.ndarray:
    """Who speaks: two different people in each recording."""
    rng = np.random.default_rng(1)
    num_people = max(2, num_voices // PER_PERSON)
    first = rng.integers(num_people, size=num_voices // 2)
    second = (first + rng.integers(1, num_people, size=len(first))) % num_people
    return np.stack([first, second], axis=1).ravel()


def make(folder: str, num_voices: int) -> dict:
    """A diarization dataset of made-up voices."""
    output = Folder(folder)
    schema = dataset.dataset_schema(DIMENSION, pipeline=PIPELINE)
    dataset.write_schema(output, schema)
    people = people_of(num_voices)
    voices = Voices(int(people.max()) + 1, spread=SPREAD)
    for start in range(0, len(people), BLOCK):
        block = people[start : start + BLOCK]
        dataset.publish_rows(output, "run1", "ok", _rows(schema, start // 2, voices.say(block)))
    return {}


def _rows(schema: pa.Schema, first: int, vectors: np.ndarray) -> pa.Table:
    number = len(vectors) // 2
    names = pa.array([f"recording-{n:08d}" for n in range(first, first + number)])
    seconds = pa.array(np.full(len(vectors), 10.0))
    speakers = pa.StructArray.from_arrays(
        [
            pa.array(["SPEAKER_00", "SPEAKER_01"] * number),
            seconds,
            seconds,
            pa.array(np.full(len(vectors), 10, np.int32)),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION),
        ],
        names=["speaker", "speech_seconds", "embedding_seconds", "num_embeddings", "embedding"],
    )
    columns = {
        "recording_id": names,
        "uri": names,
        "status": pa.repeat("ok", number),
        "speakers": pa.ListArray.from_arrays(np.arange(0, len(vectors) + 1, 2), speakers),
        "pipeline": pa.array([PIPELINE] * number, schema.field("pipeline").type),
    }
    return pa.table(
        [columns[f.name] if f.name in columns else pa.nulls(number, f.type) for f in schema],
        schema=schema,
    )


def build(index: str, folder: str) -> dict:
    begun = time.monotonic()
    builder.build(index, [folder], report=print)
    seconds = time.monotonic() - begun
    opened = VoiceprintIndex.open(index)
    return {
        "seconds": seconds,
        "kind": opened.info()["segments"],
        "bytes a vector": opened.info()["bytes a vector"],
    }


def search(index: str, num_voices: int, num_queries: int) -> dict:
    begun = time.monotonic()
    opened = VoiceprintIndex.open(index)
    opening = time.monotonic() - begun
    people = people_of(num_voices)
    chosen = np.random.default_rng(2).choice(len(people), num_queries, replace=False)
    voices = Voices(int(people.max()) + 1, spread=SPREAD)
    queries = voices.say(people[chosen])  # other recordings of people in the index
    opened.neighbors(queries[:10])
    alone = []
    for query in queries[:300]:
        begun = time.monotonic()
        opened.neighbors(query[None])
        alone.append(time.monotonic() - begun)
    begun = time.monotonic()
    _, found = opened.neighbors(queries)
    batch = time.monotonic() - begun
    memory = _peak()
    begun = time.monotonic()
    _, true = opened.neighbors(queries, exact=True)
    exact = time.monotonic() - begun
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, true, strict=True)]
    return {
        "open s": opening,
        "recall@10": float(np.mean(hits) / 10),
        "one query ms, median": 1e3 * float(np.median(alone)),
        "one query ms, 95th percentile": 1e3 * float(np.percentile(alone, 95)),
        "queries/s one at a time": len(alone) / sum(alone),
        f"queries/s in a batch of {num_queries}": num_queries / batch,
        "queries/s compared with all": num_queries / exact,
        "peak GB of searching": memory,
    }


def linking(index: str, num_voices: int) -> dict:
    begun = time.monotonic()
    opened = VoiceprintIndex.open(index)
    linked = link(opened, parameters=LinkingParameters(threshold=LINK_THRESHOLD), report=print)
    seconds = time.monotonic() - begun
    people = people_of(num_voices)
    rows = linked.identities
    recordings = np.array([int(r[-8:]) for r in rows["recording_id"].to_pylist()])
    second = np.array([s[-1] == "1" for s in rows["speaker"].to_pylist()])
    scores = linking_scores(rows["identity"].to_numpy(), people[2 * recordings + second])
    return {"seconds": seconds, "links": linked.num_links, "link recall": linked.recall} | vars(
        scores
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measured(function, *arguments) -> dict:
    result = function(*arguments)
    return result | {"peak GB": _peak()}


def alone(function, *arguments) -> dict:
    """Run a step in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--voices", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--no-link", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    where = ROOT / ".bench" / f"voices-{arguments.voices}"
    shutil.rmtree(where, ignore_errors=True)
    folder, index = str(where / "dataset"), str(where / "index")
    alone(make, folder, arguments.voices)
    results = {"voices": arguments.voices, "build": alone(build, index, folder)}
    print(results["build"])
    results["search"] = alone(search, index, arguments.voices, arguments.queries)
    print(results["search"])
    if not arguments.no_link:
        results["link"] = alone(linking, index, arguments.voices)
        print(results["link"])
    shutil.rmtree(where)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
