"""README and docs: pages that build, commands that exist, Python that runs."""

import ast
import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_files import commands
from command_lines import parse_raydiar

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "cluster/README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def test_the_pages_build_and_no_link_leads_nowhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    built = subprocess.run(
        [*command, "--config-file", ROOT / ".ci/mkdocs.yml", "--site-dir", tmp_path],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "raydiar corpus diarize" in (tmp_path / "commands/index.html").read_text()
    assert "from_pretrained" in (tmp_path / "api/index.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_of_the_repository_lead_there(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
        elif found := re.match(r"https://github.com/raydiar/raydiar/blob/main/(.*)", target):
            assert (ROOT / found[1]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists_with_its_options(page):
    for command in commands(page.read_text()):
        text = shlex.join(command)
        if ">" in command:
            command = command[: command.index(">")]
        if command[:1] == ["raydiar"]:
            shortened = {"...", "…"} & set(command)  # the reader fills in
            with contextlib.suppress(AssertionError) if shortened else contextlib.nullcontext():
                parse_raydiar(command)
        for word in command:
            if word.startswith(("jobs/", "cluster/", "notebooks/", "benchmarks/")):
                assert (ROOT / word).exists(), text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_python_imports_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "raydiar":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


def test_the_first_python_of_the_readme_prints_what_it_says():
    [code] = blocks(ROOT / "README.md", "python")
    [expected] = blocks(ROOT / "README.md", "text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == expected
