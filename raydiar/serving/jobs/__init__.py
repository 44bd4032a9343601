"""The queue of jobs: the database is the queue, and a worker holds a job by a lease."""
