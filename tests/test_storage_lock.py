"""One writer per folder: refused, waited for, taken over, by one clock and on one condition."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from corpus_files import wait_until

from raydiar.errors import OutputError
from raydiar.storage.folder import Folder, FolderConflict
from raydiar.storage.lock import OutputLock, check_lock, living_holder

LOCK = "_raydiar/lock"


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(str(tmp_path / "output"))


def held_elsewhere(folder: Folder, **changes) -> bytes:
    """Leave the lock that a run on another machine holds; gives what is in it."""
    with OutputLock(folder, "far", silence=1.0):
        lock = json.loads(folder.read(LOCK)) | {"machine": "another"} | changes
    folder.publish(LOCK, json.dumps(lock).encode())
    return json.dumps(lock).encode()


def holding(folder: Folder, run: str, silence: float) -> subprocess.Popen:
    """A process that holds the lock until it is killed."""
    script = f"""
import time
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock
with OutputLock(Folder({folder.uri!r}), {run!r}, silence={silence}):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_writer_is_refused_until_the_first_ends(folder):
    with OutputLock(folder, "run1"):
        check_lock(folder, "run1")
        with pytest.raises(OutputError, match="being written by run run1"), OutputLock(folder, "2"):
            pass
        check_lock(folder, "run1")  # the refused run took nothing away
    with OutputLock(folder, "run2"):
        check_lock(folder, "run2")
        with pytest.raises(OutputError, match="no longer holds the lock"):
            check_lock(folder, "run1")
    assert folder.list("_raydiar").keys() == {"lock.guard"}


def test_the_lock_of_a_killed_process_falls_free_at_once(folder):
    process = holding(folder, "run1", silence=300)
    assert living_holder(folder) == "run1"
    with pytest.raises(OutputError, match="being written by run run1"), OutputLock(folder, "run2"):
        pass
    process.kill()
    while living_holder(folder) == "run1":  # a zombie is dead, though its number is taken
        time.sleep(0.01)
    with OutputLock(folder, "run2"):
        check_lock(folder, "run2")
    process.wait()


def test_the_number_of_a_dead_process_may_be_anothers(folder):
    with OutputLock(folder, "run1"):
        lock = json.loads(folder.read(LOCK))
    assert lock["process"] == os.getpid()
    folder.publish(LOCK, json.dumps(lock | {"started": lock["started"] - 1}).encode())
    assert living_holder(folder) is None
    with OutputLock(folder, "run2"):
        pass


def test_a_stopped_process_is_waited_for_and_notices_when_it_wakes(folder):
    process = holding(folder, "run1", silence=1.5)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    said = []
    renewed = json.loads(folder.read(LOCK))["monotonic"]  # of this machine
    with OutputLock(folder, "run2", silence=1.5, say=said.append):
        assert time.monotonic() - renewed >= 1.5
        process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        check_lock(folder, "run2")  # what woke up took nothing back
    assert "locked by run run1" in said[0]
    assert "for which this run waits" in said[0]
    process.kill()
    process.wait()


@pytest.mark.parametrize("wrong", [-360.0, 360.0])
def test_clocks_of_machines_are_not_compared(folder, monkeypatch, wrong):
    """A lock that is renewed stays its holder's, and a silent one falls free, 6 minutes apart."""
    held_elsewhere(folder)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + wrong)

    refused = threading.Event()

    def renew():
        for n in range(600):
            held_elsewhere_again = json.loads(folder.read(LOCK)) | {"renewals": n}
            folder.publish(LOCK, json.dumps(held_elsewhere_again).encode())
            if refused.wait(0.1):
                return

    renewing = threading.Thread(target=renew)
    renewing.start()
    with pytest.raises(OutputError, match="being written"), OutputLock(folder, "2", silence=20.0):
        pass
    refused.set()
    renewing.join()
    begun = time.monotonic()
    with OutputLock(folder, "run2", silence=1.0):
        assert time.monotonic() - begun >= 1.0
        check_lock(folder, "run2")


def test_a_holder_is_given_the_silence_that_it_asked_for(folder):
    held_elsewhere(folder, silence=1.5)
    begun = time.monotonic()
    with OutputLock(folder, "run2", silence=0.1):
        assert time.monotonic() - begun > 1.4


@pytest.mark.parametrize("left", [b"", b"{", b"null", b"[1]", b"\xff"])
def test_a_lock_that_a_kill_left_damaged_falls_free(folder, left):
    folder.publish(LOCK, left)
    with OutputLock(folder, "run1", silence=0.3):
        check_lock(folder, "run1")


def test_of_several_that_wait_one_gets_the_lock(folder):
    held_elsewhere(folder)
    got, refused = [], []

    def wait(run):
        try:
            with OutputLock(folder, run, silence=1.0):
                got.append(run)
                wait_until(lambda: len(got) + len(refused) == 6)
                check_lock(folder, run)
        except OutputError:
            refused.append(run)

    waiting = [threading.Thread(target=wait, args=(f"run{n}",)) for n in range(6)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)


def test_a_held_lock_is_renewed_whatever_the_storage_raises(folder, monkeypatch):
    class EndpointConnectionError(Exception):  # botocore's is no OSError
        pass

    with OutputLock(folder, "run1", silence=1.0):
        replace, failing = Folder.replace, [True] * 3

        def refuse(*arguments):
            if failing:
                failing.pop()
                raise EndpointConnectionError
            return replace(*arguments)

        monkeypatch.setattr(Folder, "replace", refuse)
        before = folder.read(LOCK)
        wait_until(lambda: not failing and folder.read(LOCK) != before)
        check_lock(folder, "run1")


def test_a_run_that_lost_its_lock_does_not_delete_it(folder):
    with OutputLock(folder, "run1") as lock:
        folder.publish(LOCK, held_elsewhere(Folder(f"{folder.uri}/other")))
        lock._release()
        assert b"far" in folder.read(LOCK)


def test_a_kill_while_a_file_is_made_leaves_it_whole_or_absent(folder):
    """It stood empty for a moment, and the lock of an output would have been empty for good."""
    script = f"""
from raydiar.storage.folder import Folder
folder = Folder({folder.uri!r})
for n in range(10**6):
    folder.create(f"{{n}}", b"whole")
"""
    writer = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 200
    while len(folder.list()) < 50:
        assert time.monotonic() < deadline
        assert set(folder.list().values()) <= {5}
    writer.kill()
    writer.wait()
    assert set(folder.list().values()) == {5}
    with pytest.raises(FileExistsError):
        folder.create("0", b"again")


def test_files_are_removed_on_a_condition(folder):
    folder.publish("a", b"1")
    _, version = folder.read_version("a")
    folder.publish("a", b"2")
    with pytest.raises(FolderConflict):
        folder.remove("a", version)
    folder.remove("a", folder.read_version("a")[1])
    assert not folder.exists("a")
