"""Diarize a corpus: `ray job submit --working-dir . -- python jobs/diarize_corpus.py …`.

Or as a plain script, which starts a Ray on this machine. Running it again goes on where it stopped.
"""

import argparse

from raydiar.corpus import diarize_corpus
from raydiar.errors import RaydiarError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument("--manifest", help="Parquet, CSV or JSON Lines")
    corpus.add_argument("--input", dest="source", help="folder, prefix or glob of audio")
    parser.add_argument("--output", required=True, help="folder or URI of the dataset")
    parser.add_argument("--pipeline", help="Hub repository, directory or config; default embedded")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    parser.add_argument(
        "--num-actors", default="auto", help="at most; auto: as many as the cluster holds"
    )
    parser.add_argument(
        "--max-failures", type=int, default=500, help="of the last 1,000 recordings"
    )
    parser.add_argument(
        "--retry-errors",
        nargs="?",
        const="retryable",
        choices=["retryable", "all"],
        help="do recordings again whose row is an error",
    )
    parser.add_argument(
        "--reprocess", action="store_true", help="delete the rows of another pipeline first"
    )
    parser.add_argument("--keep-local", help="folder or URI that keeps what clustering needs")
    parser.add_argument("--decode-time-limit", type=float, default=120.0, help="seconds")
    parser.add_argument("--token", help="Hugging Face token for gated weights")
    arguments = vars(parser.parse_args())
    try:
        summary = diarize_corpus(**arguments)
    except RaydiarError as error:
        raise SystemExit(f"raydiar: {error}") from None
    print(summary)
    print(f"The dataset is in {summary.output}")


if __name__ == "__main__":
    main()
