"""Tables of the server's database.

What changes with every sign of life of a worker (`jobs`) is apart from what is large and rarely
touched (`documents`): SQLite writes a whole row anew whenever one of its columns changes. Times are
seconds since 1970 (UTC). Names carry a prefix, because a PostgreSQL database may be shared.
"""

import sqlalchemy as sa

SCHEMA_VERSION = 2

metadata = sa.MetaData()

schema = sa.Table(
    "raydiar_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)

jobs = sa.Table(
    "raydiar_jobs",
    metadata,
    # the order of creation; only SQLite's INTEGER numbers by itself
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("job_id", sa.String(36), nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    # what a worker needs room for first: "url" to fetch it, "upload" to process it
    sa.Column("lane", sa.Text, nullable=False, server_default="upload"),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("media", sa.Text, nullable=False),
    sa.Column("audio_seconds", sa.Double),
    sa.Column("progress", sa.Double, nullable=False, default=0.0),
    sa.Column("warning", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Column("expires_at", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("excused", sa.Integer, nullable=False, default=0),
    sa.Column("machine_failures", sa.Integer, nullable=False, server_default="0"),
    # in a process of its own, since one that had it died
    sa.Column("alone", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("lease_owner", sa.Text),
    sa.Column("lease_expires", sa.Double),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("webhook", sa.Text),
    sa.Column("webhook_status_only", sa.Boolean, nullable=False, default=False),
    sa.Column("webhook_attempts", sa.Integer, nullable=False, default=0),
    sa.Column("webhook_next_at", sa.Double),
    sa.Column("webhook_done", sa.Boolean, nullable=False, default=False),
    sa.Column("webhook_error", sa.Text),
    sa.Column("webhook_lease_owner", sa.Text),
    sqlite_autoincrement=True,
)

# A partial index serves only queries that spell its condition out: a bound parameter is not known
# when SQLite plans, nor when PostgreSQL plans for any parameter.
QUEUED = jobs.c.status == sa.literal_column("'created'")


def _partial_index(name: str, *columns: sa.Column, where: sa.ColumnElement[bool]) -> None:
    sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


# Who is next, and how much waits, without a look at the rows (for which SQLite wants the status in
# the index, though it is the same in all of it).
_partial_index(
    "raydiar_jobs_next",
    jobs.c.owner,
    jobs.c.lane,
    jobs.c.priority,
    jobs.c.seq,
    jobs.c.kind,
    jobs.c.audio_seconds,
    jobs.c.status,
    where=QUEUED,
)
_leased = jobs.c.lease_expires.is_not(None)
_partial_index("raydiar_jobs_leases", jobs.c.lease_expires, where=_leased)
_partial_index("raydiar_jobs_busy", jobs.c.owner, jobs.c.lease_expires, where=_leased)
_partial_index("raydiar_jobs_expiry", jobs.c.expires_at, where=jobs.c.expires_at.is_not(None))
_partial_index(
    "raydiar_jobs_webhooks", jobs.c.webhook_next_at, where=jobs.c.webhook_next_at.is_not(None)
)
# Uploads that somebody still needs.
_partial_index("raydiar_jobs_media", jobs.c.owner, jobs.c.media, where=jobs.c.finished_at.is_(None))
sa.Index("raydiar_jobs_list", jobs.c.owner, jobs.c.seq)

documents = sa.Table(
    "raydiar_documents",
    metadata,
    sa.Column("job_id", sa.String(36), primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("output", sa.Text),
    sa.Column("waveform", sa.Text),
)

# What people made of outputs; the highest number of a job is how it stands.
versions = sa.Table(
    "raydiar_versions",
    metadata,
    sa.Column("job_id", sa.String(36), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)

media = sa.Table(
    "raydiar_media",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("upload_id", sa.String(36), nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("num_bytes", sa.BigInteger),
    sa.Column("seconds", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("store_path", sa.Text, nullable=False),
    sa.Index("raydiar_media_key", "owner", "key", "seq"),
    sa.Index("raydiar_media_expiry", "expires_at"),
    sqlite_autoincrement=True,
)

api_keys = sa.Table(
    "raydiar_api_keys",
    metadata,
    sa.Column("key_id", sa.String(16), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)

secrets = sa.Table(
    "raydiar_secrets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# What older schemas lack, by the version that brought it.
MIGRATIONS = {
    2: (
        "ALTER TABLE raydiar_jobs ADD COLUMN lane TEXT NOT NULL DEFAULT 'upload'",
        "UPDATE raydiar_jobs SET lane = 'url' WHERE substr(media, 1, 8) <> 'media://'",
        "ALTER TABLE raydiar_jobs ADD COLUMN machine_failures INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE raydiar_jobs ADD COLUMN alone BOOLEAN NOT NULL DEFAULT false",
        "ALTER TABLE raydiar_documents ADD COLUMN waveform TEXT",
        "ALTER TABLE raydiar_media ADD COLUMN seconds DOUBLE PRECISION",
        "DROP INDEX raydiar_jobs_queue",
    )
}
