"""Where tests find real data; those that need reference outputs say when they are absent."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from audio_files import write
from postgres_server import PostgresServer, find_programs
from s3_server import S3Server

from raydiar import hub
from raydiar.audio import decode

SHARED = Path(__file__).resolve().parents[2] / "shared"

_SAMPLE = "pypi://pyannote.audio==4.0.7/pyannote/audio/sample/sample"


# What `make test FAST=1` leaves out: clusters, servers as processes, real pipelines over minutes.
SLOW = {
    "test_audio_fuzz",
    "test_corpus_attempts",
    "test_corpus_detect",
    "test_corpus_failures",
    "test_corpus_growing",
    "test_corpus_job",
    "test_corpus_kills",
    "test_corpus_nodes",
    "test_corpus_s3",
    "test_corpus_shards",
    "test_corpus_simulate",
    "test_corpus_stages",
    "test_corpus_status",
    "test_docs",
    "test_install",
    "test_job_entrypoints",
    "test_linking",
    "test_models_commands",
    "test_notebooks",
    "test_pipeline",
    "test_secrets",
    "test_serving_app",
    "test_serving_page",
    "test_serving_shared",
    "test_training_jobs",
    "test_training_notebook",
    "test_training_ray",
    "test_training_run",
    "test_voiceprint_sharded",
}


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="leave out what takes long")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--fast"):
        kept = [item for item in items if item.path.stem not in SLOW]
        config.hook.pytest_deselected(items=[item for item in items if item.path.stem in SLOW])
        items[:] = kept


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference outputs and real recordings kept beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder beside this checkout: comparison with references not run")
    return SHARED


@pytest.fixture(scope="session")
def sample_wav() -> Path:
    """30 s of real conversation between two people, 16 kHz mono."""
    sha256 = "c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e"
    return hub.fetch(f"{_SAMPLE}.wav#sha256={sha256}")


@pytest.fixture(scope="session")
def sample_rttm() -> Path:
    """Who really spoke when in `sample_wav`."""
    sha256 = "d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87"
    return hub.fetch(f"{_SAMPLE}.rttm#sha256={sha256}")


@pytest.fixture(scope="session")
def talk(sample_wav, tmp_path_factory) -> bytes:
    """5 s of conversation as a WAV file."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    samples = decode(sample_wav, start=10.0, duration=5.0)
    return write(path, samples / 32768.0, 16000, "pcm_s16le").read_bytes()


@pytest.fixture(scope="session")
def pipeline():
    """The embedded default pipeline, on the CPU."""
    from raydiar import Pipeline

    return Pipeline.from_pretrained()


@pytest.fixture(scope="session")
def s3_proxy():
    """The way to the S3 server of the tests, which every process finds through its environment."""
    proxy = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield proxy
    proxy.close()


@pytest.fixture
def s3(s3_proxy):
    """An S3 server over HTTP."""
    s3_proxy.start_backend()
    s3_proxy.reset()
    yield s3_proxy
    s3_proxy.reset()


@pytest.fixture(scope="session")
def self_signed(tmp_path_factory) -> Path:
    """Key and certificate of audio.example that no authority has signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "audio.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("audio.example")]), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pair.pem"
    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, *private) + certificate.public_bytes(pem))
    return path


@pytest.fixture(scope="session")
def local_ray(s3_proxy):
    """One Ray for all tests, of the size that a job starts on two cores; gives its address."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of our own, which tests may stop and start."""
    programs = find_programs()
    if programs is None:
        missing = "no PostgreSQL (initdb, pg_ctl) here, and none could be installed"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    server = PostgresServer(programs)
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/server/raydiar.db"
    return request.getfixturevalue("postgres").empty_database()
