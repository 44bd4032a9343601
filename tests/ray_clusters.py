"""Ray clusters for tests that begin without a node to work on, and grow by an autoscaler.

Ray's own fake provider starts the nodes, as processes of this machine. Not through
`ray.cluster_utils.AutoscalingCluster`: that one stops every Ray of the machine first.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
_MARK = "RAYDIAR_TEST_CLUSTER"
# under its own name Ray looks for an example file that its wheel lacks
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"


class GrowingCluster:
    """A head without CPUs, and worker groups that start with no node.

    Parameters
    ----------
    groups : dict of dict
        Resources of a node of each group, and how many there may be at most under "most":
        `{"cpu": {"CPU": 2, "most": 3}}`.
    idle_seconds : float
        After which a node without work goes.
    version : int
        Of Ray's autoscaler: 1 or 2.

    Attributes
    ----------
    address, dashboard : str
        For `RAY_ADDRESS`, and for `ray job submit --address`.
    environment : dict
        With which a client's processes are allowed in.
    """

    def __init__(self, groups: dict[str, dict], idle_seconds: float = 10.0, version: int = 2):
        # short, or the names of Ray's sockets would be longer than Linux takes
        self._home = Path(tempfile.mkdtemp(prefix="rg-", dir="/tmp"))
        gcs, dashboard, client = free_ports(3)
        self.address, self.dashboard = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        self._mark = self._home.name
        token = self._home / "token"
        token.write_text("0123456789abcdef" * 4)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            _MARK: self._mark,
        }
        self.environment.pop("RAY_ADDRESS", None)
        config = self._home / "autoscaler.json"
        config.write_text(json.dumps(self._config(groups, idle_seconds, version)))
        launch = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        if version == 2:
            launch |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": _HEAD_ID}
            launch |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID}
        else:
            launch |= {"RAY_enable_autoscaler_v2": "0"}
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        quick |= {"health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
        command = [*RAY, "start", "--head", "--num-cpus=0", "--num-gpus=0", "--disable-usage-stats"]
        command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={self._home}"]
        command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        command += ["--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        command += [f"--autoscaling-config={config}", f"--system-config={json.dumps(quick)}"]
        log = (self._home / "start.log").open("w")
        try:
            subprocess.run(
                command, env=self.environment | launch, stdout=log, stderr=log, check=True
            )
        except BaseException:
            print((self._home / "start.log").read_text())
            self.close()
            raise

    def _config(self, groups: dict[str, dict], idle_seconds: float, version: int) -> dict:
        types = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
        for name, group in groups.items():
            resources = {key: value for key, value in group.items() if key != "most"}
            resources.setdefault("object_store_memory", 100_000_000)
            types[name] = {"resources": resources, "node_config": {}, "min_workers": 0}
            types[name]["max_workers"] = group["most"]
        provider = {"type": "external", "module": _PROVIDER, "gcs_address": self.address}
        provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
        provider |= {"foreground_node_launch": True}
        if version == 2:
            provider |= {"launch_multiple": True, "head_node_id": _HEAD_ID}
        return {
            "cluster_name": "raydiar",
            "max_workers": sum(group["most"] for group in groups.values()),
            "idle_timeout_minutes": idle_seconds / 60,
            "provider": provider,
            "available_node_types": types,
            "head_node_type": "ray.head.default",
            "upscaling_speed": 10,
            "auth": {},
            "docker": {},
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
        }

    def raylets(self) -> list[int]:
        """Process ids of the raylets of all nodes, the head's first."""
        found = [pid for pid in self._processes() if _name(pid).endswith("raylet/raylet")]
        return sorted(found, key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().split()[21]))

    def _processes(self) -> list[int]:
        return processes_with(f"{_MARK}={self._mark}")

    def close(self) -> None:
        """End every process of the cluster, and nothing else."""
        end_all(self._processes)
        shutil.rmtree(self._home, ignore_errors=True)


@contextmanager
def growing_cluster(*args, **kwargs):
    cluster = GrowingCluster(*args, **kwargs)
    try:
        yield cluster
    finally:
        cluster.close()


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def processes_with(setting: str) -> list[int]:
    """Process ids of all that were started with a setting in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if setting.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [pid for pid in found if pid != os.getpid()]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


class JobCluster:
    """One node with a dashboard that takes jobs, as `ray job submit` wants it.

    Attributes
    ----------
    environment : dict
        With which a client's processes are allowed in.
    """

    def __init__(self, num_cpus: int):
        self._home = Path(tempfile.mkdtemp(prefix="rj-", dir="/tmp"))
        self._mark = self._home.name
        gcs, dashboard, client = free_ports(3)
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            _MARK: self._mark,
        }
        self.environment.pop("RAY_ADDRESS", None)
        command = [*RAY, "start", "--head", f"--num-cpus={num_cpus}", "--disable-usage-stats"]
        command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={self._home}"]
        command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        command += ["--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        started = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if started.returncode:
            self.close()
            raise AssertionError(started.stdout + started.stderr)

    def submit(self, *command: str) -> subprocess.Popen:
        """`ray job submit` of a Python script of this repository; it waits for the job's end."""
        root = Path(__file__).resolve().parents[1]
        submit = [*RAY, "job", "submit", f"--address={self.dashboard}", "--working-dir", "."]
        return subprocess.Popen(
            [*submit, "--", sys.executable, *map(str, command)],
            cwd=root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self) -> list[int]:
        return processes_with(f"{_MARK}={self._mark}")

    def driver_of(self, *arguments: str) -> int | None:
        """Process id of the job's script with these arguments, if it runs."""
        for pid in self.processes():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if command[1].endswith(".py") and set(arguments) <= set(command[2:]):
                    return pid
        return None

    def close(self) -> None:
        """End every process of the cluster, and nothing else."""
        end_all(self.processes)
        shutil.rmtree(self._home, ignore_errors=True)


@contextmanager
def job_cluster(num_cpus: int):
    cluster = JobCluster(num_cpus)
    try:
        yield cluster
    finally:
        cluster.close()


def end_all(processes) -> None:
    """End what a function lists, until it lists nothing."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        for pid in processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 5
        while processes() and time.monotonic() < deadline:
            time.sleep(0.1)
