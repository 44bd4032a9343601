"""The job itself.

- `run`: `diarize_corpus`, `detect_corpus` and `resolve_corpus`, start to end.
- `bookkeeping`: nothing is written before the lock is held; a run is not done before every
  recording has exactly one row.
- `compaction`: many small files made into few.
- `graph`: the operators on Ray Data, their resources and their order.
- `waiting`: how much may wait between operators, so that nothing waits forever.
- `portions`, `prefetch`, `decoding`: rows of the plan, or a shard, into packs of measured audio.
- `pack`: the row that travels; what it holds after each step.
- `stages`: inference, clustering, writing of one pack; which failures become rows.
- `detecting`: the two stages that a job of detections has instead.
- `joining`: the parts of a long recording made one again.
- `keeping`: LocalSpeakers kept for a later job, and read by it.
- `placement`: how Ray is reached, which device is taken, how many actors fit.

Whose failure something is, the recording's, the moment's or the machine's, is told in
`raydiar.failures`, which servers share.
"""
