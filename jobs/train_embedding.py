"""Train a speaker embedding: `ray job submit --working-dir . -- python jobs/train_embedding.py …`.

Or as a plain script, which starts a Ray on this machine. Running it again goes on where it stopped.
The options are those of `raydiar train embedding`, with `--manifest` for its argument.
"""

import sys

from raydiar.training.commands import main

if __name__ == "__main__":
    main("embedding", sys.argv[1:])
