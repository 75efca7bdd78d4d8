"""Starts and ends processes, and says what they cost. Knows no tool by name."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

# A server's child that served a connection ends a little after the client; its CPU time counts only then.
CHILD_END_SECONDS = 2.0
START_SECONDS = 10.0


class Wrong(Exception):
    """A run whose result is not what it has to be. Never a reason to leave a row out."""


@dataclass
class Cost:
    """What one run took. CPU in seconds, memory in bytes; `None` where it cannot be known."""

    wall: float
    client_cpu: float
    server_cpu: float
    server_peak: int | None
    strangers_cpu: float

    @property
    def strangers(self):
        """How many cores somebody else had, on average."""
        return self.strangers_cpu / self.wall

    def __add__(self, other):
        peaks = [peak for peak in (self.server_peak, other.server_peak) if peak is not None]
        return Cost(
            self.wall + other.wall,
            self.client_cpu + other.client_cpu,
            self.server_cpu + other.server_cpu,
            max(peaks, default=None),
            self.strangers_cpu + other.strangers_cpu,
        )


class Scratch:
    """A directory, and processes, that are gone when the block is left, however it is left."""

    def __init__(self, parent):
        self.path = Path(tempfile.mkdtemp(prefix="ftx-versus-", dir=parent))
        self.servers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.stop()
        shutil.rmtree(self.path, ignore_errors=True)

    def directory(self, name):
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def start(self, argv, **options):
        server = Server(argv, **options)
        self.servers.append(server)
        return server


class Server:
    """A process that waits for clients, and its children."""

    def __init__(self, argv, log=None, stdout=None, env=None, cwd=None):
        self.argv = [str(word) for word in argv]
        self.log = open(log, "ab") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout or self.log,
            stderr=self.log,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )

    def wait_for_port(self, port):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise OSError(f"{self.argv[0]} does not listen on port {port}")

    def stop(self):
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
                self.process.wait(timeout=3)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.poll()

    def family(self):
        found, line = [], [self.process.pid]
        while line:
            pid = line.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    line.extend(int(child) for child in children.split())
            except OSError:
                pass
        return found

    def cpu(self):
        """Seconds of the process, of its children, and of those that have ended."""
        return sum(cpu_of(pid) for pid in self.family())

    def settle(self, pids):
        """Waits until no process is left that was not there before."""
        deadline = time.monotonic() + CHILD_END_SECONDS
        while set(self.family()) - set(pids) and time.monotonic() < deadline:
            time.sleep(0.005)

    def forget_peak(self):
        for pid in self.family():
            try:
                # 5: the peak begins again at what is resident now.
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                pass

    def peak(self):
        peaks = [status_bytes(pid, "VmHWM") for pid in self.family()]
        return sum(peak for peak in peaks if peak is not None)


def cpu_of(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS_A_SECOND


def status_bytes(pid, field):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def machine_busy():
    """Seconds that all CPUs together have worked, also for others on the host."""
    with open("/proc/stat") as stat:
        fields = [int(field) for field in stat.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / TICKS_A_SECOND


def run(argv, server=None, env=None, cwd=None, peak=True):
    """Runs a client to its end and says what it and its server cost. Fails if the client does."""
    pids, server_before = ([], 0.0)
    if server:
        server.forget_peak()
        pids, server_before = server.family(), server.cpu()
    busy_before = machine_busy()
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Wrong(f"{' '.join(process.args)}: {process.returncode}: {complaint.decode(errors='replace')}")
    server_cpu = 0.0
    if server:
        server.settle(pids)
        server_cpu = server.cpu() - server_before
    client_cpu = usage.ru_utime + usage.ru_stime
    strangers = machine_busy() - busy_before - client_cpu - server_cpu
    return Cost(wall, client_cpu, server_cpu, server.peak() if server and peak else None, max(0.0, strangers))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find(tool):
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
