"""Index the voiceprints of datasets: `python jobs/build_voiceprint_index.py --index … DATASET…`.

An index that is there already gets the recordings that it does not have. One process does it; for
`ray job submit` on a cluster as well as on a laptop.
"""

import argparse

from raydiar.errors import RaydiarError
from raydiar.storage.folder import Folder
from raydiar.voiceprints import builder
from raydiar.voiceprints.generation import CURRENT, KINDS
from raydiar.voiceprints.segment_writer import Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", help="outputs of diarization jobs")
    parser.add_argument("--index", required=True, help="folder or URI of the index")
    parser.add_argument("--column", action="append", default=[], help="carried, to filter on")
    parser.add_argument("--min-seconds", type=float, default=builder.MIN_SECONDS)
    parser.add_argument("--kind", default="auto", help=f"auto, {', '.join(KINDS)}")
    arguments = parser.parse_args()
    try:
        layout = Layout(kind=arguments.kind)
        if Folder(arguments.index).exists(CURRENT):
            change = builder.add(arguments.index, arguments.datasets, layout=layout, report=print)
        else:
            change = builder.build(
                arguments.index,
                arguments.datasets,
                columns=arguments.column,
                min_seconds=arguments.min_seconds,
                layout=layout,
                report=print,
            )
    except RaydiarError as error:
        raise SystemExit(f"raydiar: {error}") from None
    print(change)
    print(f"The index is in {arguments.index}")


if __name__ == "__main__":
    main()
