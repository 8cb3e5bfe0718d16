"""Everything real on one machine, and the ways to end each of it: parts, servers, a worker that only sleeps.

Owns the processes: PostgreSQL, Tryton behind a proxy that loses answers, an installation with Valkey and Ray, load.
Kills by process id, and only what it started. Each of its waits has an end; what a test asserts is correctness.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from chaos_cluster import Cluster
from chaos_load import SHARDS, Load, rulebook
from installed import Installed, until
from loopback_proxy import LoopbackProxy

from actors.cli.companies import companies
from actors.cli.installation import cache_folder
from adapters import embedded, settings
from runtime.topology import shards_of
from simulation.workload.rows import ENTITIES, OPENS_ON

BACK_WITHIN_S = 180.0  # the machine may be busy: no test fails because of its speed
LOSE_EVERY = 4  # answers of the ERP
SETTLE_S = 20  # on a busy machine Tryton takes long for a call
WRITING_CALLS = ("account.move.create", "account.move.post", "account.move.post_batch")
CONFIG = """
mapping = [
    {mapping}
]

[runtime]
data_dir = "{data_dir}"
shards = {shards}
workers = 2
dashboard_port = 0
metrics_port = 0
ray_address = "{ray_address}"

[gateway]
port = 0

[books]
url = "{books_url}"

[[consumer]]
name = "ledger"

[erp]
kind = "tryton"
url = "{erp_url}"
password_file = "{password_file}"
calls_per_minute = 6000
seal_age_s = 0.5
settings = {{ external_ref = {external_ref} }}
# A call whose caller was killed may go on that long here: before, finding nothing proves nothing.
limits = {{ settle_s = {settle_s} }}

[limits]
checkpoint_commits_max = 100
checkpoint_age_s_max = 3.0
ping_timeout_s = 6.0
{entities}
"""


def configuration(books_url: str, erp_url: str, password_file: Path, *, external_ref: bool, ray_address: str) -> str:
    """The text of a configuration; {data_dir} is left for whoever installs it."""
    with settings.DEMO_FILE.open("rb") as file:
        everywhere = [row for row in settings.tomllib.load(file)["mapping"] if row.keys() == {"role", "account"}]
    rows = [*everywhere, {"role": "CONTRACTUAL", "account": "4110"}]
    entities = [f'[entities.{name}]\nname = "{name}"\ncurrency = "USD"\nopens_on = {OPENS_ON}' for name in ENTITIES]
    return CONFIG.format(
        mapping="\n    ".join(f'{{ role = "{row["role"]}", account = "{row["account"]}" }},' for row in rows),
        data_dir="{data_dir}",
        shards=SHARDS,
        ray_address=ray_address,
        books_url=books_url,
        erp_url=erp_url,
        password_file=password_file,
        external_ref=str(external_ref).lower(),
        settle_s=SETTLE_S,
        entities="\n".join(entities),
    )


class Rig:
    """One installation under load, its servers, and a stopwatch. Build it with `running_rig`."""

    def __init__(self, folder: Path, seed: int, *, external_ref: bool = False, cluster: Cluster | None = None) -> None:
        self.seed, self.external_ref, self._cluster = seed, external_ref, cluster
        self.proofs = 0
        self._folder, self.tryton_folder = folder, folder / "tryton"
        self.rules = rulebook()
        self.recoveries: list[tuple[str, float]] = []
        self._servers: dict[str, embedded.EmbeddedPart] = {}
        self._lose_nth = 0
        self._to_end = contextlib.ExitStack()

    def start_servers(self) -> None:
        """What an installation finds there: PostgreSQL, Tryton and the proxy before it."""
        self._to_end.callback(self._stop_servers)
        self._start_postgres()
        self.proxy = LoopbackProxy(0)
        self._to_end.callback(self.proxy.close)
        text = configuration(
            self._servers["postgres"].url,
            self.proxy.url,
            embedded.tryton_password_file(self.tryton_folder),
            external_ref=self.external_ref,
            ray_address=self._cluster.address if self._cluster else "",
        )
        self.installed = Installed(self._folder, "one", text)
        self._to_end.callback(self.installed.end)
        self.config = settings.load(str(self.installed.config))
        self.start_tryton()

    def up(self, *, frame_rows: int, pause_s: float) -> None:
        """Start the installation, look at it, and load it."""
        self.installed.run("up")
        self._eye = self._program("ray_eye.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._to_end.callback(self._end_eye)
        gateway = self.installed.record().gateway
        self.load = Load(gateway, self.seed, self.rules, frame_rows=frame_rows, pause_s=pause_s)
        self._to_end.callback(self.load.finish)
        self.load.start()
        until(lambda: self.committed() > 0 and self.posted() > 0, BACK_WITHIN_S, "the load runs through to the ERP")

    def _program(self, name: str, *words: str, **streams: Any) -> subprocess.Popen:
        """Run a program of this folder on the installation's configuration."""
        command = [sys.executable, str(Path(__file__).with_name(name)), str(self.installed.config), *words]
        environment = self.installed.marked.environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        return subprocess.Popen(command, env=environment, **streams)

    # ── looking ──

    def ask(self, question: str) -> Any:
        """What the program beside Ray answers."""
        self._eye.stdin.write(f"{question}\n")
        self._eye.stdin.flush()
        return json.loads(self._eye.stdout.readline())

    def pid(self, name: str) -> int:
        """The process of a part that runs."""
        return until(lambda: self._pid_if_running(name), BACK_WITHIN_S, f"{name} runs")

    def _pid_if_running(self, name: str) -> int | None:
        told = self.ask("ping")[name]
        return told["pid"] if told and told["state"] == "running" else None

    def all_run(self) -> bool:
        """Whether every part answers that it runs."""
        return all(told and told["state"] == "running" for told in self.ask("ping").values())

    def shards_of(self, worker: str) -> dict[int, tuple[int, int]]:
        """Epoch and committed rows of each shard whose newest holder is this worker."""
        with self.installed.books() as books:
            rows = books.shard_rows().iter_rows(named=True)
            return {r["shard"]: (r["epoch"], r["rows_total"]) for r in rows if r["holder"].startswith(f"{worker}/")}

    def committed(self) -> int:
        """Rows committed by all shards; every shard has committed some, or it is 0."""
        with self.installed.books() as books:
            rows = books.shard_rows()["rows_total"].to_list()
        return sum(rows) if len(rows) == self.config.runtime.shards and all(rows) else 0

    def posted(self) -> int:
        """Entries that the ERP has, as far as the books know."""
        with self.installed.books() as books:
            return books.entry_counts().get("posted", 0)

    # ── ending things ──

    def measure(self, what: str, end: Callable[[], None], is_back: Callable[[], bool]) -> None:
        """End something, wait until it is back, note and say the time between."""
        end()
        began = time.monotonic()
        until(is_back, BACK_WITHIN_S, f"back after: {what}")
        seconds = time.monotonic() - began
        self.recoveries.append((what, seconds))
        print(f"{what}: back after {seconds:.1f} s", flush=True)

    def gone_on(self, worker: str) -> Callable[[], bool]:
        """Whether each shard that this worker holds now has a newer owner and a commit of it."""
        before = self.shards_of(worker)
        assert before, f"{worker} holds no shard"

        def is_so() -> bool:
            with self.installed.books() as books:
                rows = {row["shard"]: row for row in books.shard_rows().iter_rows(named=True)}
            return all(rows[s]["epoch"] > epoch and rows[s]["rows_total"] > n for s, (epoch, n) in before.items())

        return is_so

    def kill_worker(self, name: str) -> None:
        """SIGKILL of a worker, until its shards go on."""
        pid = self.pid(name)
        self.measure("worker kill -9", lambda: os.kill(pid, signal.SIGKILL), self.gone_on(name))

    def lose_node(self) -> None:
        """Everything on the node of a worker dies at once, until shards go on elsewhere; a new node takes its place."""
        node = self._cluster.node_of(self.pid("worker-0"))
        self.measure("node lost", lambda: self._cluster.lose(node), self.gone_on("worker-0"))
        self._cluster.add_node()

    def kill_gateway(self) -> None:
        """SIGKILL of the gateway, until the load is answered again."""
        pid = self.pid("gateway-0")
        self.measure("gateway kill -9", lambda: _kill_and_breathe(pid), self._answered_more())

    def kill_poster(self) -> None:
        """SIGKILL of the poster, until entries are posted by another."""
        pid = self.pid("poster")
        self.measure(
            "poster kill -9",
            lambda: os.kill(pid, signal.SIGKILL),
            lambda: self._other("poster", pid) and self._posts_more(),
        )

    def kill_other(self, name: str) -> None:
        """SIGKILL of a part, until another one runs in its place."""
        pid = self.pid(name)
        self.measure(f"{name} kill -9", lambda: os.kill(pid, signal.SIGKILL), lambda: self._other(name, pid))

    def _other(self, name: str, pid: int) -> bool:
        return self._pid_if_running(name) not in (None, pid)

    def _answered_more(self) -> Callable[[], bool]:
        before: list[int] = []

        def is_so() -> bool:
            before[:] = before or [self.load.answered]
            return self.load.answered > before[0]

        return is_so

    def _posts_more(self) -> bool:
        before = self.posted()
        time.sleep(0.5)
        return self.posted() > before

    def _commits_more(self) -> bool:
        before = self.committed()
        time.sleep(0.3)
        return self.committed() > before > 0

    def hang_worker(self, name: str) -> None:
        """SIGSTOP of a worker until its successor has committed, then SIGCONT, if Ray has not ended it by then."""
        pid = self.pid(name)
        process = psutil.Process(pid)
        self.measure("worker hangs", lambda: os.kill(pid, signal.SIGSTOP), self.gone_on(name))
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
        psutil.wait_procs([process], timeout=BACK_WITHIN_S)
        assert not process.is_running(), "a replaced worker is still there"

    def wake_overtaken_worker(self) -> None:
        """A worker that nobody can reach owns shards, sleeps until its successor has committed, and wakes up: it finds
        itself fenced, and ends by itself."""
        lone = self._program("lone_worker.py", "0", str(self._folder / "lone"))
        self._to_end.callback(_end_program, lone)
        until(lambda: self._owns_all(lone.pid), BACK_WITHIN_S, "the worker outside Ray owns its shards")
        self.measure("worker cut off", lambda: os.kill(lone.pid, signal.SIGSTOP), self.gone_on("worker-0"))
        assert not self._owns_all(lone.pid)
        os.kill(lone.pid, signal.SIGCONT)
        assert lone.wait(timeout=BACK_WITHIN_S) == 1

    def _owns_all(self, pid: int) -> bool:
        """Whether this process is the newest owner of every shard that worker-0 hosts."""
        with self.installed.books() as books:
            rows = {row["shard"]: row["holder"] for row in books.shard_rows().iter_rows(named=True)}
        hosted = shards_of(0, self.config.runtime.workers, SHARDS)
        return all(rows[shard] == f"worker-0/{pid}" for shard in hosted)

    def kill_valkey(self) -> None:
        """SIGKILL of the embedded Valkey; nobody helps. Until events are answered and committed again."""
        (part,) = (part for part in self.installed.record().parts if part.name == "valkey")
        answered = self._answered_more()
        self.measure(
            "Valkey kill -9",
            lambda: _kill_and_breathe(part.pid),
            lambda: answered() and self._commits_more(),
        )

    def kill_postgres(self) -> None:
        """SIGKILL of PostgreSQL; its operator starts it again. Until shards commit again."""
        self._kill_server("postgres")
        self.measure("PostgreSQL kill -9", self._start_postgres, self._commits_more)

    def _start_postgres(self) -> None:
        self._servers["postgres"] = embedded.start_postgres(self._folder / "pg")

    def kill_tryton(self) -> None:
        """SIGKILL of Tryton; its operator starts it again. Until entries are posted again."""
        self._kill_server("tryton")
        self.measure("Tryton kill -9", self.start_tryton, self._posts_more)

    def lose_answers(self, nth: int) -> None:
        """From now on every nth answer of the ERP to a call that writes is lost, after it was done; 0: none."""
        self._lose_nth = nth
        self.proxy.lose_every(nth, WRITING_CALLS)

    def lose_an_answer(self) -> None:
        """Wait until one more answer of the ERP has got lost, and entries are posted after that."""
        lost = self.proxy.lost
        if not self._lose_nth:
            self.lose_answers(LOSE_EVERY)
        self.measure(
            "answer of the ERP lost",
            lambda: until(lambda: self.proxy.lost > lost, BACK_WITHIN_S, "it is lost"),
            self._posts_more,
        )

    def start_tryton(self) -> None:
        """Start Tryton on its database, and let the proxy know where it is."""
        part = embedded.start_tryton(self.tryton_folder, companies(self.config), cache_folder(), self.external_ref)
        self._servers["tryton"] = part
        self.tryton_url = part.url
        self.proxy.forward_to(int(part.url.rpartition(":")[2]))

    def _kill_server(self, name: str) -> None:
        process = psutil.Process(self._servers[name].pid)
        family = [process, *process.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=10)
        embedded.stop(self._servers.pop(name))

    # ── the end ──

    def end(self) -> None:
        """End everything, whatever has happened; fail when the installation left something running."""
        self._to_end.close()

    def _stop_servers(self) -> None:
        for part in self._servers.values():
            embedded.stop(part)

    def _end_eye(self) -> None:
        self._eye.stdin.close()
        _end_program(self._eye)


def _end_program(program: subprocess.Popen) -> None:
    """Give it a moment to end by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        program.wait(timeout=10)
    program.kill()
    program.wait()


def _kill_and_breathe(pid: int) -> None:
    """Kill; an answer that was on its way is none of the successor's."""
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)


@contextlib.contextmanager
def running_rig(folder: Path, seed: int, *, frame_rows: int = 300, pause_s: float = 0.2, **how: Any) -> Iterator[Rig]:
    """A rig under load; ended, whatever happens."""
    rig = Rig(folder, seed, **how)
    try:
        rig.start_servers()
        rig.up(frame_rows=frame_rows, pause_s=pause_s)
        yield rig
    finally:
        rig.end()
