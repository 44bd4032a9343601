"""The job itself.

- `run`: `diarize_corpus` and `resolve_corpus`, start to end.
- `bookkeeping`: nothing is written before the lock is held; a run is not done before every
  recording has exactly one row.
- `compaction`: many small files made into few.
- `graph`: the operators on Ray Data, their resources and their order.
- `stages`: what each operator does with one pack; which failures become rows.
- `shard_decoding`: the stage that turns a shard into packs while it reads.
- `placement`: how Ray is reached, which device is taken, how many actors fit.

Whose failure something is, the recording's, the moment's or the machine's, is told in
`raydiar.failures`, which servers share.
"""
