"""Decoding in a child process: real crashes, real stalls, and who ends whom."""

import gc
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from audio_files import RATE, sparse_wav, speech_like, write

from raydiar.audio import decode, probe
from raydiar.audio.isolation import IsolatedDecoder
from raydiar.audio.parts import Cut, PartedPcm
from raydiar.audio.pcm import PcmBuffer
from raydiar.errors import (
    AudioDecodeError,
    AudioNotFound,
    ConfigError,
    DecoderCrashed,
    DecoderKilled,
    DecoderStalled,
    EmptyAudio,
    RecordingTooLong,
    StorageUnavailable,
)
from raydiar.failures import MACHINE, failure_cause

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    path = tmp_path_factory.mktemp("isolation") / "talk.mp3"
    return write(path, speech_like(20.0), 44100, "mp3", bit_rate=128000)


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder() as decoder:
        yield decoder


@pytest.fixture
def fifo(tmp_path):
    """Whoever reads this file waits for ever."""
    path = tmp_path / "stall.wav"
    os.mkfifo(path)
    return path


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def shared_memory() -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssShmem"))


def test_same_samples_and_info_as_in_process(decoder, talk):
    assert np.array_equal(decoder.decode(talk), decode(talk))
    excerpt = {"start": 3.3, "duration": 5.0, "channel": 0}
    assert np.array_equal(decoder.decode(str(talk), **excerpt), decode(talk, **excerpt))
    assert decoder.probe(talk) == probe(talk)
    with open(talk, "rb") as file:
        file.read(100)
        assert np.array_equal(decoder.decode(file), decode(talk))
        assert decoder.probe(file) == probe(talk)


def test_relative_paths_are_the_callers(decoder, talk, monkeypatch):
    decoder.probe(talk)  # the child is up, in another directory
    monkeypatch.chdir(talk.parent)
    assert len(decoder.decode(talk.name)) == 20 * RATE


@pytest.mark.parametrize(
    ("content", "how", "error"),
    [
        (None, {}, AudioNotFound),
        (b"", {}, EmptyAudio),
        (b"not audio" * 1000, {}, AudioDecodeError),
        ("talk", {"start": 100.0}, EmptyAudio),
        ("talk", {"channel": 5}, AudioDecodeError),
        ("talk", {"channel": "left"}, ConfigError),
        ("talk", {"start": -1.0}, ConfigError),
        ("talk", {"max_duration": 10.0}, RecordingTooLong),
    ],
)
def test_errors_are_those_of_decode(decoder, talk, tmp_path, content, how, error):
    path = tmp_path / "bad.mp3"
    if content == "talk":
        path.write_bytes(talk.read_bytes())
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as expected:
        decode(path, **how)
    with pytest.raises(error) as caught:
        decoder.decode(path, **how)
    assert type(caught.value) is type(expected.value)
    assert str(caught.value) == str(expected.value)
    child = decoder.pid
    assert len(decoder.decode(talk)) == 20 * RATE
    assert decoder.pid == child  # an error is an answer, not a reason for a new child


def test_failure_of_the_machine_keeps_its_type(decoder):
    with pytest.raises(ImportError, match="gcsfs"):
        decoder.decode("gs://bucket/talk.mp3")


def test_file_object_is_named_in_errors(decoder, tmp_path):
    path = tmp_path / "upload.mp3"
    path.write_bytes(b"not audio" * 1000)
    with open(path, "rb") as file, pytest.raises(AudioDecodeError, match=r"upload\.mp3"):
        decoder.decode(file)
    with pytest.raises(EmptyAudio, match="file object"):
        decoder.decode(io.BytesIO())


def test_crash_costs_one_recording(talk, fifo):
    with IsolatedDecoder() as decoder:
        decoder.probe(talk)
        first = decoder.pid
        for number in (signal.SIGABRT, signal.SIGSEGV):
            threading.Timer(0.2, lambda n=number: os.kill(decoder.pid, n)).start()
            with pytest.raises(DecoderCrashed, match=rf"stall\.wav.*{number.name}"):
                decoder.decode(fifo)
            assert len(decoder.decode(talk)) == 20 * RATE
        assert decoder.pid != first
        os.kill(decoder.pid, signal.SIGKILL)  # between two recordings: nobody's fault
        os.waitid(os.P_PID, decoder.pid, os.WEXITED | os.WNOWAIT)
        assert len(decoder.decode(talk)) == 20 * RATE


def test_a_kill_from_outside_is_not_the_recordings_failure(talk, fifo):
    with IsolatedDecoder() as decoder:
        decoder.probe(talk)
        threading.Timer(0.2, lambda: os.kill(decoder.pid, signal.SIGKILL)).start()
        with pytest.raises(DecoderKilled, match=r"stall\.wav.*for want of memory") as caught:
            decoder.decode(fifo)
        assert failure_cause(caught.value) == MACHINE
        assert len(decoder.decode(talk)) == 20 * RATE


def test_who_was_killed_for_memory_decodes_alone_the_next_time(talk, fifo):
    """Beside the same others, the kernel would take it again."""
    with IsolatedDecoder() as killed, IsolatedDecoder(time_limit=3.0) as other:
        for decoder in (killed, other):
            decoder.probe(talk)
        threading.Timer(0.1, lambda: os.kill(killed.pid, signal.SIGKILL)).start()
        with pytest.raises(DecoderKilled):
            killed.decode(fifo)
        ended = []

        def stall():
            with pytest.raises(DecoderStalled):
                other.decode(fifo)
            ended.append(time.monotonic())

        busy = threading.Thread(target=stall)
        busy.start()
        time.sleep(0.5)
        killed.decode(talk)
        alone = time.monotonic()
        busy.join()
        assert ended[0] < alone
        assert len(killed.decode(talk)) == 20 * RATE


def test_stall_is_ended_in_time(talk, fifo):
    with IsolatedDecoder(time_limit=1.0) as decoder:
        decoder.probe(talk)
        child = decoder.pid
        begun = time.monotonic()
        with pytest.raises(DecoderStalled, match=r"stall\.wav.* 1 s"):
            decoder.decode(fifo)
        assert 0.9 < time.monotonic() - begun < 5.0
        assert not alive(child)
        assert len(decoder.decode(talk)) == 20 * RATE


def test_slow_progress_is_not_a_stall(tmp_path):
    """The limit moves on with what has been decoded: here the child is held up for longer."""
    hours = sparse_wav(tmp_path / "hours.wav", 3, 48000)
    with IsolatedDecoder(time_limit=1.5) as decoder:
        decoder.probe(hours)
        for after, number in ((1.3, signal.SIGSTOP), (3.0, signal.SIGCONT)):
            threading.Timer(after, lambda n=number: os.kill(decoder.pid, n)).start()
        assert len(decoder.decode(hours)) == 3 * 3600 * RATE


def test_storage_that_stops_answering_is_worth_a_retry(talk):
    with socket.create_server(("127.0.0.1", 0)) as silent, IsolatedDecoder(1.5) as decoder:
        decoder.probe(talk)
        port = silent.getsockname()[1]
        with pytest.raises(StorageUnavailable, match=rf"127\.0\.0\.1:{port}/talk\.mp3"):
            decoder.decode(f"http://127.0.0.1:{port}/talk.mp3")


def test_array_owns_its_memory(talk, decoder):
    before = shared_memory()
    samples = decoder.decode(talk)
    expected = decode(talk)
    others = [decoder.decode(talk, start=1.0) for _ in range(3)]
    assert np.array_equal(samples, expected)
    samples[:] = 7  # it is the caller's to change
    assert shared_memory() - before >= samples.nbytes
    assert np.array_equal(others[0], expected[RATE:])
    descriptors = len(os.listdir("/proc/self/fd"))
    del samples, others
    gc.collect()
    assert shared_memory() - before < expected.nbytes
    decoder.decode(talk)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_threads_may_share_a_decoder(decoder, talk):
    expected = decode(talk)
    starts = [0.0, 1.5, 3.25, 7.0] * 4
    with ThreadPoolExecutor(4) as pool:
        excerpts = list(pool.map(lambda s: decoder.decode(talk, start=s, duration=2.0), starts))
    for start, samples in zip(starts, excerpts, strict=True):
        first = round(start * RATE)
        assert np.array_equal(samples, expected[first : first + 2 * RATE])


def test_close_ends_the_child(talk):
    decoder = IsolatedDecoder()
    assert decoder.pid is None
    decoder.probe(talk)
    child = decoder.pid
    decoder.close()
    assert decoder.pid is None
    assert not alive(child)
    decoder.probe(talk)  # starts another
    child = decoder.pid
    del decoder
    gc.collect()
    assert gone_within(child, 5)


PARENT = """
import sys, threading
from raydiar.audio.isolation import IsolatedDecoder
decoder = IsolatedDecoder()
decoder.probe(sys.argv[1])
print(decoder.pid, flush=True)
decoder.decode(sys.argv[2])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_child_dies_with_its_parent(talk, fifo, number):
    """Even in the middle of a stall: a node full of orphans would be worse than the crash."""
    command = [sys.executable, "-c", PARENT, str(talk), str(fifo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        assert alive(child)
        parent.send_signal(number)
        parent.wait()
        assert gone_within(child, 5)


def test_interrupt_leaves_no_stale_answer(talk, fifo):
    with IsolatedDecoder() as decoder:
        decoder.probe(talk)
        child = decoder.pid
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            decoder.decode(fifo)
        assert not alive(child)
        assert len(decoder.decode(talk)) == 20 * RATE


# -- in parts ------------------------------------------------------------------------------------

CUT = Cut(most=8 * RATE, part=4 * RATE, overlap=RATE)


def joined(parts) -> np.ndarray:
    """The recording that parts are of, after a look at how they fit together."""
    *rest, (end, place, last) = parts
    assert last
    for number, (samples, at, is_last) in enumerate(rest):
        assert (len(samples), at, is_last) == (5 * RATE, number * 4 * RATE, False)
        following = parts[number + 1][0]
        assert np.array_equal(samples[4 * RATE :], following[:RATE])
    assert place == 4 * RATE * len(rest)
    assert not rest or len(end) >= RATE
    return np.concatenate([*(samples[: 4 * RATE] for samples, _, _ in rest), end])


@pytest.mark.parametrize("excerpt", [{}, {"start": 3.5}, {"start": 1.0, "duration": 9.25}])
def test_parts_of_a_recording_are_what_it_is(talk, decoder, excerpt):
    parts = list(decoder.parts(talk, CUT, **excerpt))
    assert len(parts) >= 2
    assert np.array_equal(joined(parts), decode(talk, **excerpt))
    [(whole, place, last)] = decoder.parts(talk, CUT, duration=8.0)
    assert (place, last) == (0, True)
    assert np.array_equal(whole, decode(talk, duration=8.0))


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_s16le"])
def test_parts_of_floats_and_of_joined_files_are_right_as_well(tmp_path, decoder, codec):
    """Floats that nobody divided show after seconds; all before them is then decoded again."""
    signal = speech_like(10.0)
    if codec == "pcm_f32le":
        signal = np.concatenate([signal, 32768 * speech_like(10.0, seed=1)])
    path = write(tmp_path / "a.wav", signal, RATE, codec)
    path.write_bytes(path.read_bytes() * 2)
    told, told_whole = [], []
    parts = list(decoder.parts(path, CUT, warnings=told))
    assert len(parts) >= 3
    assert np.array_equal(joined(parts), decode(path, warnings=told_whole))
    assert told == told_whole


def test_what_is_wrong_with_a_recording_may_come_after_some_parts(tmp_path, decoder):
    path = write(tmp_path / "a.wav", speech_like(20.0), RATE, "pcm_s16le")
    path.write_bytes(path.read_bytes()[: 15 * 2 * RATE])
    with pytest.raises(AudioDecodeError) as expected:
        decode(path)
    came = []
    with pytest.raises(AudioDecodeError, match=re.escape(str(expected.value))):
        came.extend(decoder.parts(path, CUT))
    assert [last for _, _, last in came] in ([False] * 2, [False] * 3)


def test_whoever_takes_no_more_parts_may_go_on_with_another_recording(talk, decoder):
    parts = decoder.parts(talk, CUT)
    next(parts)
    parts.close()
    assert len(decoder.decode(talk)) == 20 * RATE
    # of whoever comes back late, the time is not the child's
    with IsolatedDecoder(time_limit=1.5) as impatient:
        parts = impatient.parts(talk, CUT)
        next(parts)
        time.sleep(2.0)
        assert next(parts)[1] == 4 * RATE
        parts.close()


def test_whoever_looks_on_never_sees_a_recording_in_parts_shrink():
    """A decoder that seemed to have gone back by two hours was taken for one that had stalled."""
    seen = []

    class Kept(PcmBuffer):
        def clear(self):
            super().clear()
            seen.append(pcm.num_samples)

        def append(self, block):
            super().append(block)
            seen.append(pcm.num_samples)

    pcm = PartedPcm(Kept(), CUT, lambda samples, place: seen.append(pcm.num_samples))
    for _ in range(30):
        pcm.append(np.zeros(RATE, np.int16))
    pcm.end()
    assert pcm.given == 7 * CUT.part
    assert seen == sorted(seen)
    assert pcm.num_samples == 30 * RATE


def test_a_day_takes_the_memory_of_its_parts(tmp_path):
    hours = sparse_wav(tmp_path / "hours.wav", 2)  # 230 MB of samples
    with IsolatedDecoder() as decoder:
        decoder.decode(hours, duration=1.0)
        before = shared_and_own(decoder.pid)
        most = total = 0
        for samples, _, last in decoder.parts(hours, Cut(600 * RATE, 300 * RATE, RATE)):
            total += len(samples) - (0 if last else RATE)
            most = max(most, shared_and_own(decoder.pid) - before)
        assert total == 2 * 3600 * RATE
    assert most < 80e6


def shared_and_own(pid: int) -> int:
    """Bytes of a process, with what it shares."""
    with open(f"/proc/{pid}/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_a_decoder_has_so_much_memory_and_so_many_files(talk):
    with IsolatedDecoder() as decoder:
        decoder.probe(str(talk))
        limits = Path(f"/proc/{decoder.pid}/limits").read_text().splitlines()
    found = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert found["Max data size"] == str(4 * 2**30)
    assert found["Max open files"] == "256"
    assert found["Max core file size"] == "0"
