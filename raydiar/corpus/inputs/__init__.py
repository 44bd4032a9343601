"""What goes into a job.

- `manifest`: the rows to process; ids are unique, values checked, URIs absolute before any work.
- `sources`: a folder, prefix or glob listed into a manifest; what counts as audio.
- `listing`, `inventory`: how files are listed, many requests at a time; listings that exist.
- `shards`: the members of tar and Parquet shards; a missing member is an error, never silent.
- `shard_record`: which shards were read to their end, so that a second run need not read them.
- `plan`: the rows that are to be done, as files that the job streams; what is done is left out.
"""
