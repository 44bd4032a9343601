"""Who may import whom; and what `import raydiar` must not cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "raydiar"

# From the ground floor up; a room imports itself and what stands below it.
FLOORS = [
    {"errors", "windows", "local_speakers", "storage", "diarization", "formats", "picture", "hub"}
    | {"telemetry", "plotting", "failures", "planning", "naming", "devices", "weights"}
    | {"compat", "sample", "window_scores", "keywords", "extras"},
    {"audio", "simulation"},
    {"models", "clustering"},
    {"inference"},
    {"pipelines"},
    {"corpus", "voiceprints", "evaluation"},
    {"training"},
    {"serving", "tasks", "doctor"},
    {"cli", "__main__"},
]
# Within raydiar/corpus, likewise.
CORPUS_FLOORS = [
    {"hashes", "wire"},
    {"inputs"},
    {"output"},
    {"watch"},
    {"job"},
    {"options"},
    {"detect_commands"},
    {"commands"},
]
# Within raydiar/serving.
SERVING_FLOORS = [
    {"logs", "settings"},
    {"storage"},
    {"outbound"},
    {"jobs", "media"},
    {"stores", "failures", "results"},
    {"deployments"},
    {"work", "http"},
    {"app", "commands"},
]
INNER_FLOORS = {"corpus": CORPUS_FLOORS, "serving": SERVING_FLOORS}
RAY_ROOMS = {"corpus", "serving"}
RAY_FILES = {"voiceprints/sharded.py", "evaluation/on_ray.py", "training/ray.py"}
TORCH_ROOMS = {"models", "inference", "pipelines", "cli", "corpus", "voiceprints", "serving"}
TORCH_ROOMS |= {"training", "doctor"}


def imports(path: Path):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "raydiar":
                yield from (f"raydiar.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def test_every_room_has_a_floor():
    assert {room_of(path) for path in files()} <= set().union(*FLOORS)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    room = room_of(path)
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "ray":
            name = str(path.relative_to(PACKAGE))
            assert room in RAY_ROOMS or name in RAY_FILES, f"{path} imports Ray"
        if top == "torch":
            assert room in TORCH_ROOMS
        if top in ("lightning", "pytorch_lightning"):
            assert room == "training"
        if top == "raydiar" and rest and rest[0] in floor:
            assert floor[rest[0]] <= floor[room], f"{path} imports {module} from above"


@pytest.mark.parametrize("outer", INNER_FLOORS)
def test_every_inner_room_has_a_floor(outer):
    rooms = {
        path.stem
        for path in (PACKAGE / outer).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__"} == set().union(*INNER_FLOORS[outer])


@pytest.mark.parametrize(
    "path",
    [p for p in files() if room_of(p) in INNER_FLOORS and p.parent.name != "raydiar"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_go_down_within_a_room(path):
    outer, inner = path.relative_to(PACKAGE).parts[:2]
    floor = {r: level for level, rooms in enumerate(INNER_FLOORS[outer]) for r in rooms}
    inner = inner.removesuffix(".py")
    for module in imports(path):
        below = module.removeprefix(f"raydiar.{outer}.").split(".")[0]
        if module.startswith(f"raydiar.{outer}.") and inner in floor and below in floor:
            assert floor[below] <= floor[inner], f"{path} imports {module} from above"


def test_nothing_below_the_corpus_job_borrows_from_it():
    """Voiceprints read its datasets; for storage they need not reach into it."""
    for path in (PACKAGE / "voiceprints").glob("*.py"):
        borrowed = {m for m in imports(path) if m.startswith("raydiar.corpus")}
        allowed = ("raydiar.corpus.output", "raydiar.corpus.hashes")
        assert all(module.startswith(allowed) for module in borrowed), (path, borrowed)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pyannotes_import_paths_are_for_its_users(path):
    from raydiar.compat import ALIASES

    used = {module for module in imports(path) if module in ALIASES}
    assert not used, (
        f"{path} imports {used}, which are names for those who come from pyannote.audio"
    )
    if room_of(path) != "compat":
        assert "raydiar.compat" not in set(imports(path))


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import raydiar", {"ray", "torch", "pyannote"}),
        ("from raydiar import Pipeline", {"ray"}),
        ("import raydiar.audio, raydiar.diarization, raydiar.clustering", {"ray", "torch"}),
        ("import raydiar.storage", {"ray", "torch", "numpy", "pyarrow", "fsspec"}),
        ("import raydiar.storage.folder, raydiar.storage.lock", {"ray", "torch", "faiss"}),
        ("import raydiar.corpus", {"ray", "torch", "numpy", "pyarrow"}),
        ("from raydiar.corpus import dataset", {"ray", "torch"}),
        ("import raydiar.corpus.job.stages", {"torch"}),
        ("import raydiar.pipelines.config, raydiar.weights", {"ray", "torch"}),
        ("import raydiar.pipelines.detector, raydiar.corpus.job.detecting", {"ray", "torch"}),
        ("import raydiar.cli", {"ray", "torch", "faiss"}),
        ("import raydiar.corpus.watch.status, raydiar.corpus.output.export", {"ray", "torch"}),
        ("import raydiar.planning", {"ray", "torch", "numpy", "pyarrow"}),
        ("import raydiar.telemetry", {"ray", "torch", "numpy", "opentelemetry"}),
        ("import raydiar.voiceprints.index", {"ray", "torch"}),
        ("import raydiar.voiceprints.search", {"ray", "torch"}),
        ("import raydiar.simulation", {"ray", "torch", "pyannote", "pandas"}),
        ("import raydiar.serving.jobs.store", {"ray", "torch", "numpy"}),
        ("import raydiar.serving.storage.keys", {"ray", "torch", "numpy"}),
        ("import raydiar.serving.media.store, raydiar.serving.outbound.fetching", {"ray", "torch"}),
        ("import raydiar.serving.outbound.webhooks", {"ray", "torch"}),
        ("import raydiar.serving.results.voiceprint_text", {"ray", "torch"}),
        ("import raydiar.serving.commands", {"ray", "torch", "fastapi", "sqlalchemy"}),
        ("import raydiar.serving.app", {"torch"}),
        ("import raydiar.training.commands, raydiar.training.check", {"torch", "lightning", "ray"}),
        ("import raydiar.training.run, raydiar.tasks", {"ray"}),
    ],
)
def test_imports_are_light(code, absent):
    script = f"{code}; import sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not absent & set(result.stdout.split())
