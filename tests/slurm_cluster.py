"""A real Slurm on this one machine, for tests: munged, slurmctld and a slurmd for each node, all on loopback.

    with running_cluster(nodes=2) as cluster:
        job = cluster.submit("job.sh")
        cluster.wait(job, "COMPLETED")

Made for Debian's packages (Slurm 22.05 and later), whose slurmd may run several times on one host, and for root.
Nothing is limited or bound: a job may use more cores than it asked for, and the numbers of cores, GPUs and megabytes
are only claims. GPUs are links to /dev/null: CUDA_VISIBLE_DEVICES is set, and there is no device. Times are shorter
than on a cluster: a requeued job starts after 5 s, not 120; SIGKILL follows SIGTERM after 10 s, not 30; a lost node is
given up after about 15 to 25 s, not 5 minutes.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import debian

PACKAGES = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge"}
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
POLICY = Path("/usr/sbin/policy-rc.d")  # Debian asks it whether a package may start its daemons

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also the delay of a requeued job; below 5 Slurm takes 120
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
JobRequeue=1
ReturnToService=2
SlurmdTimeout=5
KillWait=10
MinJobAge=7200
FirstJobId={first}
CompleteWait=0
InactiveLimit=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
"""


class NoClusterError(RuntimeError):
    """This machine cannot have a cluster; the message says why."""


def install() -> None:
    """Install what is missing of Slurm and munge with apt.

    Raises:
        NoClusterError: this is no machine for it, or apt fails.
    """
    if os.geteuid() != 0:
        raise NoClusterError("a Slurm cluster on this machine needs root")
    missing = sorted({package for program, package in PACKAGES.items() if shutil.which(program, path=PATH) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise NoClusterError(f"{' and '.join(missing)} are not installed, and there is no apt-get to install them")
    own_policy = not POLICY.exists()
    if own_policy:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        if fault := debian.install(missing):
            raise NoClusterError(fault)
    finally:
        if own_policy:
            POLICY.unlink()


@contextmanager
def running_cluster(nodes: int = 2, cpus: int = 16, gpus: int = 2) -> Iterator[Cluster]:
    """A cluster of `nodes` nodes, node1, node2, ..., in two partitions, `main` and `other`.

    Raises:
        NoClusterError: this machine cannot have one.
    """
    install()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # not pytest's: the path of a socket has at most 107 characters
    cluster = Cluster(folder, nodes)
    try:
        cluster.configure(cpus, gpus)
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """The daemons of one cluster, all files of which lie in `folder`."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        # Node names resolve nowhere: the ranks of a job meet on the loopback address.
        self.environment = {
            "PATH": PATH,
            "SLURM_CONF": str(self.configuration),
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    # -- daemons ------------------------------------------------------------------------------------------------------

    def configure(self, cpus: int, gpus: int) -> None:
        """Write slurm.conf, gres.conf and munge's key."""
        host = socket.gethostname().split(".")[0]
        ports = free_ports(2 + len(self.nodes))
        first = random.SystemRandom().randrange(1, 9000)  # its last 4 digits make the port of a job's ranks
        lines = [CONFIGURATION.format(host=host, ports=ports, folder=self.folder, first=first)]
        for name, port in zip(self.nodes, ports[2:], strict=True):
            lines.append(
                f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} Sockets=1 CoresPerSocket={cpus} "
                f"ThreadsPerCore=1 RealMemory=64000 TmpDisk=100000 Gres=gpu:{gpus} State=UNKNOWN"
            )
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP")
        lines.append("PartitionName=other Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP")
        self.configuration.write_text("\n".join(lines) + "\n")
        for number in range(gpus):
            (self.folder / f"nvidia{number}").symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={','.join(self.nodes)} Name=gpu File={self.folder}/nvidia[0-{gpus - 1}]\n"
        )
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)

    def start(self, seconds: float = 60) -> None:
        """Start every daemon and wait until all nodes are idle."""
        munge = ["--socket", "munge.socket", "--key-file", "munge.key", "--seed-file", "munge.seed"]
        munge += ["--pid-file", "munged.pid", "--log-file", "munged.log"]
        munge = [word if word.startswith("--") else str(self.folder / word) for word in munge]
        self._daemon("munged", "--force", *munge)
        self._daemon("slurmctld", "-f", str(self.configuration))
        for name in self.nodes:
            self.start_node(name)
        self.until(lambda: self._states().count("idle") == len(self.nodes), "idle nodes", seconds)

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node, also of one that was killed."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        self._daemon("slurmd", "-f", str(self.configuration), "-N", name)

    def kill_node(self, name: str) -> None:
        """The node loses power: its slurmd, steps and tasks are gone at once, and nobody is told."""
        for pid in [self._pid(f"slurmd-{name}"), *self.processes(name)]:
            kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the jobs and the daemons, whatever state they are in."""
        if self._alive("slurmctld"):
            jobs = self.run("squeue", "--noheader", "--format=%A", check=False).split()
            if jobs:
                self.run("scancel", "--signal=KILL", "--full", *jobs, check=False)
                self.run("scancel", *jobs, check=False)
        for name in self.nodes:
            self.kill_node(name)
        for daemon in ("slurmctld", "munged"):
            pid = self._pid(daemon)
            kill(pid, signal.SIGTERM)
            end = time.monotonic() + 5
            while pid and Path(f"/proc/{pid}").exists() and time.monotonic() < end:
                time.sleep(0.05)
            kill(pid, signal.SIGKILL)

    def processes(self, node: str) -> list[int]:
        """The processes of jobs on a node: slurmstepd by its open log, tasks by their environment."""
        log, found = str(self.folder / f"slurmd-{node}.log"), []
        marks = {f"SLURM_CONF={self.configuration}", f"SLURMD_NODENAME={node}"}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if "slurmstepd" in os.readlink(process / "exe"):
                    its = any(os.readlink(link) == log for link in (process / "fd").iterdir())
                else:
                    its = marks <= set((process / "environ").read_bytes().decode(errors="replace").split("\0"))
            except OSError:  # it has ended meanwhile
                continue
            if its:
                found.append(int(process.name))
        return found

    def _daemon(self, *command: str) -> None:
        output = self.folder / f"{command[0]}.out"  # never the test's own pipes: they would stay open
        with open(output, "ab") as file:
            done = subprocess.run(
                command, env=self._environ(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        if done.returncode:
            raise RuntimeError(f"{command[0]} did not start:\n{output.read_text()}\n{self.logs()}")

    def _pid(self, daemon: str) -> int | None:
        try:
            return int((self.folder / f"{daemon}.pid").read_text())
        except (OSError, ValueError):
            return None

    def _alive(self, daemon: str) -> bool:
        pid = self._pid(daemon)
        return pid is not None and Path(f"/proc/{pid}").exists()

    def _states(self) -> list[str]:
        return self.run("sinfo", "--noheader", "--Node", "-p", "main", "--format=%t", check=False).split()

    def _environ(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | self.environment

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("slurm*.log")))

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True, seconds: float = 60) -> str:
        """Standard output of a command of Slurm."""
        done = subprocess.run(command, env=self._environ(), capture_output=True, text=True, timeout=seconds)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def submit(self, *arguments: str) -> str:
        """The job id that sbatch gives."""
        return self.run("sbatch", "--parsable", *arguments).strip()

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol` says of one job, or of one task of an array."""
        text = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text.splitlines()[0]))

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ..."""
        return self.show(job)["JobState"]

    def wait(self, job: str, state: str = "COMPLETED", seconds: float = 240) -> dict[str, str]:
        """Wait until the job has ended, which must be in that state."""
        self.until(lambda: self.state(job) in ENDED, f"the end of job {job}", seconds)
        found = self.show(job)
        assert found["JobState"] == state, f"{found}\n{output(found)}"
        return found

    def until(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for something, half a second at a time."""
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                queue = self.run("squeue", "--all", check=False)
                raise AssertionError(f"no {what} within {seconds:.0f} s\n{queue}\n{self.logs()}")
            time.sleep(0.5)


def output(job: dict[str, str]) -> str:
    """The end of what a job has written."""
    path = Path(job.get("StdOut", ""))
    return path.read_text(errors="replace")[-4000:] if path.is_file() else "no output"


def kill(pid: int | None, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
