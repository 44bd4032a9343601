"""Search with every voiceprint of a dataset: `python jobs/search_voiceprints.py --index … …`.

Writes one Parquet table of hits. One process does it, or with `--shards` as many Ray actors; for
`ray job submit` on a cluster as well as on a laptop.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from raydiar.errors import RaydiarError
from raydiar.voiceprints.batch import search_dataset
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.searchable import SearchableIndex
from raydiar.voiceprints.verification import default_calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--index", required=True, help="folder or URI of the index")
    parser.add_argument("--queries", required=True, help="diarization dataset of voices to seek")
    parser.add_argument("--output", required=True, help="Parquet file of hits to write")
    parser.add_argument("-k", type=int, default=10, help="hits of each voice at most")
    parser.add_argument("--prior", type=float, help="of being one person; default by size")
    parser.add_argument("--shards", type=int, help="Ray actors to spread the index over")
    parser.add_argument("--shard-cpus", type=float, default=1, help="CPUs of each of these")
    arguments = parser.parse_args()
    try:
        with opened(arguments.index, arguments.shards, arguments.shard_cpus) as index:
            generation = index.generation
            calibration = default_calibration(generation.embedding, generation.embedding_mode)
            number = search_dataset(
                index,
                arguments.queries,
                arguments.output,
                arguments.k,
                calibration=calibration,
                prior=arguments.prior,
            )
    except RaydiarError as error:
        raise SystemExit(f"raydiar: {error}") from None
    print(f"{number:,} voices sought; the hits are in {arguments.output}")


@contextmanager
def opened(uri: str, num_shards: int | None, num_cpus: float) -> Iterator[SearchableIndex]:
    if num_shards is None:
        yield VoiceprintIndex.open(uri)
        return
    from raydiar.corpus.job.placement import connected
    from raydiar.voiceprints.sharded import ShardedIndex

    with connected(), ShardedIndex.open(uri, num_shards, num_cpus=num_cpus) as index:
        print(f"the index is open in {index.num_shards} shards")
        yield index


if __name__ == "__main__":
    main()
