"""Train a segmentation: `ray job submit --working-dir . -- python jobs/train_segmentation.py …`.

Or as a plain script, which starts a Ray on this machine. Running it again goes on where it stopped.
The options are those of `raydiar train segmentation`, with `--manifest` for its argument.
"""

import sys

from raydiar.training.commands import main

if __name__ == "__main__":
    main("segmentation", sys.argv[1:])
