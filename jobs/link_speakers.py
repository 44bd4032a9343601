"""Give every voice of an index an identity: `python jobs/link_speakers.py INDEX OUTPUT …`.

Identities of an earlier run in the same output are kept. One process does it, on a GPU if FAISS
sees one; for `ray job submit` on a cluster as well as on a laptop. The options are those of
`raydiar voiceprint link`.
"""

import sys

from raydiar.cli import main

if __name__ == "__main__":
    sys.argv[:1] = ["raydiar", "voiceprint", "link"]
    main()
