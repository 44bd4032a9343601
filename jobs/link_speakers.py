"""Give every voice of an index an identity: `python jobs/link_speakers.py --index … --output …`.

Identities of an earlier run in the same output are kept. One process does it, on a GPU if FAISS
sees one; for `ray job submit` on a cluster as well as on a laptop.
"""

import argparse

from raydiar.errors import RaydiarError
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.linking import LinkingParameters, link_into
from raydiar.voiceprints.verification import default_calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--index", required=True, help="folder or URI of the index")
    parser.add_argument("--output", required=True, help="folder or URI of the identities")
    parser.add_argument("--probability", type=float, default=0.9, help="that makes a link")
    parser.add_argument("--within", help="carried column: link in each of its values first")
    parser.add_argument("--threshold", type=float, help="score that makes a link, instead")
    arguments = parser.parse_args()
    try:
        index = VoiceprintIndex.open(arguments.index)
        generation = index.generation
        calibration = default_calibration(generation.embedding, generation.embedding_mode)
        parameters = LinkingParameters(
            probability=arguments.probability,
            threshold=arguments.threshold,
            within=arguments.within,
        )
        link_into(arguments.output, index, calibration, parameters, print)
    except RaydiarError as error:
        raise SystemExit(f"raydiar: {error}") from None
    print(f"The identities are in {arguments.output}")


if __name__ == "__main__":
    main()
