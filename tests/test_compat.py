"""Those who come from pyannote.audio find everything where it was."""

import importlib
import inspect
import subprocess
import sys

import pytest

import raydiar
from raydiar.compat import ALIASES


@pytest.mark.parametrize("module", ALIASES)
def test_every_name_of_the_table(module):
    aliases = importlib.import_module(module)
    assert dir(aliases) == sorted(ALIASES[module])
    for name, home in ALIASES[module].items():
        assert getattr(aliases, name) is getattr(importlib.import_module(home), name)


def test_a_name_that_is_not_there():
    with pytest.raises(ImportError, match="cannot import name 'Tensorboard'"):
        exec("from raydiar.core.model import Tensorboard", {})
    with pytest.raises(ModuleNotFoundError):
        exec("import raydiar.core.nothing", {})
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing' \(Audio"):
        _ = importlib.import_module("raydiar.core.io").nothing


def test_documentation_and_editors_find_the_real_thing():
    from raydiar.core.inference import Inference
    from raydiar.pipelines.utils.hook import ProgressHook

    assert inspect.getsourcefile(ProgressHook).endswith("raydiar/pipelines/hooks.py")
    assert Inference.__module__ == "raydiar.inference.sliding"
    for name, text in (
        ("raydiar.core.inference.Inference", "A network over recordings"),
        ("raydiar.utils.powerset", "Powerset classes to single ones"),
    ):
        command = [sys.executable, "-m", "pydoc", name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert text in shown


def test_no_alias_hides_a_module():
    root = importlib.resources.files(raydiar)
    for module in ALIASES:
        place = root.joinpath(*module.split(".")[1:])
        assert not place.is_dir(), module
        assert not place.with_suffix(".py").is_file(), module
