"""An S3 server in a process of its own: moto, told over its standard input to make objects.

`{"bucket": …, "keys": "flat/{:06d}.wav", "number": 20000, "files": [path, …]}` makes so many
objects out of these files in turn, without HTTP. The process ends when its input closes.
"""

import json
import logging
import sys
from pathlib import Path

from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.s3.models import s3_backends


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    backend = s3_backends["123456789012"]["aws"]
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["bucket"] not in backend.buckets:
            backend.create_bucket(asked["bucket"], "us-east-1")
        contents = [Path(path).read_bytes() for path in asked["files"]]
        for n in range(asked["number"]):
            key = asked["keys"].format(n)
            backend.put_object(asked["bucket"], key, contents[n % len(contents)])
        print("made", flush=True)


if __name__ == "__main__":
    main()
