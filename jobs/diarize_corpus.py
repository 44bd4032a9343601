"""Diarize a corpus: `ray job submit --working-dir . -- python jobs/diarize_corpus.py …`.

Or as a plain script, which starts a Ray on this machine. Running it again goes on where it stopped.
The options are those of `raydiar corpus diarize`.
"""

import sys

from raydiar.cli import main

if __name__ == "__main__":
    sys.argv[:1] = ["raydiar", "corpus", "diarize"]
    main()
