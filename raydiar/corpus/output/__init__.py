"""What comes out of a job, and is its checkpoint.

- `dataset`: the fixed schema; exactly one row a recording, by the precedence of file names; files
  never change, and are published whole.
- `detections`: the same with the columns of speech, overlap or changes.
- `row_index`: which recordings each file holds; a cache, never the truth.
- `kept`: LocalSpeakers for clustering again without GPU or audio.
- `delta`: a log beside the files, by which they are a Delta Lake table.
- `export`: the dataset as RTTM, CSV, JSON or a table of turns.
"""
