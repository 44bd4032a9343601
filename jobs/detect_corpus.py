"""Find speech in a corpus: `ray job submit --working-dir . -- python jobs/detect_corpus.py …`.

Or as a plain script, which starts a Ray on this machine. Running it again goes on where it stopped.
First comes what to find, `speech`, `overlap` or `changes`; the options are those of
`raydiar corpus detect`.
"""

import sys

from raydiar.cli import main

if __name__ == "__main__":
    sys.argv[:1] = ["raydiar", "corpus", "detect"]
    main()
