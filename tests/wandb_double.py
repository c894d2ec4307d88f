"""A test double of W&B's server: it speaks the protocol of the real client, on loopback, and keeps all that it got.

    with WandbDouble() as server:
        ...                                      # a client with server.environment()
        run = server.run("lenet5-s0")            # by its id
        assert [row["train/loss"] for row in run.history()] == ...
        assert server.unanswered == []

It answers GraphQL operations by name, one method `answer_NAME(variables)` each: a subclass adds methods, and
`server.answers["NAME"] = function` does the same for one test. An operation that it does not know is answered with an
error and its name is kept in `unanswered`. Runs are streamed to `file_stream`, files arrive by PUT.

`fail` lets requests of one kind (`graphql`, `file_stream`, `upload`, `download`, or a GraphQL operation's name) be
answered with a status, hung up on, or left without an answer, from the next one on, for so many times or for ever.

What it witnesses is what the client sends. What the real server makes of it is known only as far as written here:
history lines are kept at the offset that the client names, and a run's next step follows its last line's.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

KEY = "0123456789" * 4  # what a key looks like
ENTITY = "team"  # of whoever the key belongs to


@dataclass
class StoredRun:
    """What arrived of one run."""

    entity: str
    project: str
    name: str  # its id in the client's words
    fields: dict[str, Any] = field(default_factory=dict)  # of UpsertBucket: displayName, groupName, jobType, tags, ...
    streams: dict[str, dict[int, str]] = field(default_factory=dict)  # file -> offset -> line
    files: dict[str, bytes] = field(default_factory=dict)
    starts: int = 0  # UpsertBucket that named it while it was not running
    running: bool = False
    exit_code: int | None = None

    @property
    def storage_id(self) -> str:
        return base64.b64encode(f"{self.entity}/{self.project}/{self.name}".encode()).decode()

    @property
    def state(self) -> str:
        return "running" if self.running else "finished" if not self.exit_code else "failed"

    def lines(self, file: str) -> list[str]:
        return [line for _, line in sorted(self.streams.get(file, {}).items())]

    def history(self) -> list[dict[str, Any]]:
        """Rows in the order of their offsets, with `_step`."""
        return [json.loads(line) for line in self.lines("wandb-history.jsonl")]

    def last_step(self) -> int:
        return max((row["_step"] for row in self.history()), default=-1)

    def summary(self) -> dict[str, Any]:
        lines = self.lines("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    def config(self) -> dict[str, Any]:
        """Without W&B's own part and without the wrapping of values."""
        wrapped = json.loads(self.fields.get("config") or "{}")
        return {key: value["value"] for key, value in wrapped.items() if key != "_wandb"}


@dataclass
class Fault:
    """What is wrong with requests of a kind: a status, `hang` or `close`, so many times."""

    what: int | str
    times: float


class WandbDouble:
    """The server; a context manager that listens on a free port of loopback."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str, str], StoredRun] = {}
        self.unanswered: list[str] = []
        self.requests: list[str] = []  # kinds, in order, with the name of the operation or the file
        self.faults: dict[str, Fault] = {}
        self.views: dict[str, dict[str, Any]] = {}  # reports and workspaces, by id, as they were last saved
        self.saves: list[str] = []  # ids of views, each time one was saved
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.keys = {KEY}
        self.lock = threading.RLock()
        self.released = threading.Event()  # lets go of those that hang

    def __enter__(self) -> WandbDouble:
        double = self

        class Handler(RequestHandler):
            server_double = double

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    # For tests --------------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Variables under which a client talks to this server and nobody else."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}

    def run(self, name: str) -> StoredRun:
        """The only run of that id, in whatever project."""
        (found,) = [run for run in self.runs.values() if run.name == name]
        return found

    def fail(self, kind: str, what: int | str, times: float = float("inf")) -> None:
        """Answer requests of `kind` with a status, or `hang`, or `close` the connection."""
        self.faults[kind] = Fault(what, times)

    def heal(self) -> None:
        """Nothing fails any longer; those that hang are hung up on."""
        self.faults.clear()
        self.released.set()
        self.released = threading.Event()

    def count(self, kind: str) -> int:
        """Requests of a kind so far."""
        return sum(request.split(" ")[0] == kind or request.split(" ")[-1] == kind for request in self.requests)

    def fault(self, *kinds: str) -> int | str | None:
        """What is wrong with this request, if anything."""
        with self.lock:
            for kind in kinds:
                found = self.faults.get(kind)
                if found is not None and found.times > 0:
                    found.times -= 1
                    return found.what
        return None

    # GraphQL ----------------------------------------------------------------------------------------------------------

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The body of the answer to one operation."""
        operation = self.answers.get(name) or getattr(self, f"answer_{name}", None)
        if operation is None:
            self.unanswered.append(name)
            return {"errors": [{"message": f"the test double does not know {name}"}]}
        return {"data": operation(variables)}

    def found(self, variables: dict[str, Any]) -> StoredRun | None:
        name = variables.get("name") or variables.get("run") or variables.get("runName")
        return self.runs.get((variables.get("entity") or ENTITY, variables["project"], str(name)))

    def answer_Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        viewer = {
            "id": "VXNlcjox",
            "entity": ENTITY,
            "username": "somebody",
            "email": "",
            "flags": "{}",
            "teams": teams,
        }
        return {"viewer": viewer | {"name": "Somebody", "admin": False, "apiKeys": None, "deletedAt": None}}

    def answer_GetDefaultEntity(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self.answer_Viewer(variables)

    def answer_ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def answer_OrganizationCoreWeaveOrganizationID(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def answer_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.found(variables)
        if run is None:
            return {"model": None}
        bucket = {
            "id": run.storage_id,
            "name": run.name,
            "summaryMetrics": json.dumps(run.summary()),
            "displayName": run.fields.get("displayName"),
            "logLineCount": len(run.lines("output.log")),
            "historyLineCount": len(run.history()),
            "eventsLineCount": len(run.lines("wandb-events.jsonl")),
            "historyTail": json.dumps(run.lines("wandb-history.jsonl")[-1:]),
            "eventsTail": json.dumps(run.lines("wandb-events.jsonl")[-1:]),
            "config": run.fields.get("config") or "{}",
            "tags": run.fields.get("tags") or [],
            "notes": run.fields.get("notes"),
            "wandbConfig": json.dumps({"t": 1}),
        }
        entity = {"id": "RW50aXR5OjE=", "name": run.entity}
        return {"model": {"id": "UHJvamVjdDox", "name": run.project, "entity": entity, "bucket": bucket}}

    def answer_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in variables.items() if value is not None}
        run = next((run for run in self.runs.values() if given.get("id") == run.storage_id), None)
        place = (given.get("entity") or ENTITY, given.get("project") or "uncategorized", given.get("name", ""))
        inserted = run is None and place not in self.runs
        if run is None:
            run = self.runs.setdefault(place, StoredRun(*place))
        if not run.running:
            run.running, run.exit_code, run.starts = True, None, run.starts + 1
        run.fields.update(
            {key: value for key, value in given.items() if key not in ("id", "name", "project", "entity")}
        )
        run.fields.setdefault("displayName", run.name)
        project = {"id": "UHJvamVjdDox", "name": run.project, "entity": {"id": "RW50aXR5OjE=", "name": run.entity}}
        bucket = {
            "id": run.storage_id,
            "name": run.name,
            "displayName": run.fields["displayName"],
            "description": None,
            "config": run.fields.get("config") or "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history()),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def answer_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        place = f"{self.url}/upload/{variables['entity']}/{variables['project']}/{variables['run']}"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def answer_RunStoppedStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def run_node(self, run: StoredRun) -> dict[str, Any]:
        """A run as the public API asks for it."""
        rows = run.history()
        keys = {key: {"typeCounts": [{"type": "number", "count": 1}]} for row in rows for key in row}
        return {
            "id": run.storage_id,
            "name": run.name,
            "displayName": run.fields["displayName"],
            "tags": run.fields.get("tags") or [],
            "sweepName": None,
            "state": run.state,
            "config": run.fields.get("config") or "{}",
            "group": run.fields.get("groupName"),
            "jobType": run.fields.get("jobType"),
            "commit": run.fields.get("commit"),
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "description": None,
            "notes": run.fields.get("notes"),
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary()),
            "historyLineCount": len(rows),
            "user": {"name": "Somebody", "username": "somebody"},
            "historyKeys": {"keys": keys, "lastStep": run.last_step(), "sets": []},
            "projectId": "1",
        }

    def answer_Run(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.found(variables)
        return {"project": {"internalId": "1", "run": None if run is None else self.run_node(run)}}

    answer_RunHistoryKeys = answer_Run

    def answer_RunFullHistory(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.found(variables)
        return {"project": {"run": run and {"history": run.lines("wandb-history.jsonl"), "events": []}}}

    def answer_RunParquetHistory(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.found(variables)
        return {"project": {"run": run and {"parquetHistory": {"parquetUrls": [], "liveData": run.history()}}}}

    def answer_HistoryPage(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.found(variables)
        low, high = int(variables["minStep"]), int(variables["maxStep"])
        rows = [json.dumps(row) for row in run.history() if low <= row["_step"] < high] if run else []
        return {"project": {"run": run and {"history": rows}}}

    def answer_Runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        """All runs of the project on one page; filters are not looked at."""
        place = (variables.get("entity") or ENTITY, variables["project"])
        runs = [run for run in self.runs.values() if (run.entity, run.project) == place]
        edges = [{"node": self.run_node(run), "cursor": str(number)} for number, run in enumerate(runs)]
        page = {"endCursor": None, "hasNextPage": False}
        project = {"internalId": "1", "runCount": len(runs), "readOnly": False}
        return {"project": project | {"runs": {"edges": edges, "pageInfo": page}}}

    def answer_RunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        """All files of the run on one page, or those whose names are asked for."""
        run = self.found(variables)
        if run is None:
            return {"project": {"internalId": "1", "run": None}}
        names = variables.get("fileNames") or []
        edges = [
            {"node": self.file_node(run, name), "cursor": name} for name in run.files if not names or name in names
        ]
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(edges), "files": files}}}

    def file_node(self, run: StoredRun, name: str) -> dict[str, Any]:
        place = f"{self.url}/download/{run.entity}/{run.project}/{run.name}/{name}"
        return {
            "id": base64.b64encode(name.encode()).decode(),
            "name": name,
            "url": place,
            "directUrl": place,
            "sizeBytes": len(run.files[name]),
            "mimetype": None,
            "updatedAt": "2026-01-01T00:00:00",
            "md5": "",
        }

    # Reports and workspaces -------------------------------------------------------------------------------------------

    def answer_GetProjects(self, variables: dict[str, Any]) -> dict[str, Any]:
        """All projects of the entity on one page."""
        names = sorted({run.project for run in self.runs.values() if run.entity == variables["entity"]})
        nodes = [{"id": f"P{n}", "name": name, "entityName": variables["entity"]} for n, name in enumerate(names)]
        nodes = [node | {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None} for node in nodes]
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": node["id"]} for node in nodes], "pageInfo": page}}

    def answer_upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Save a view: a new one without an id, else the one that has it."""
        given = variables.get("id")
        if given is not None and given not in self.views:
            raise KeyError(f"no view {given}")
        name = given or base64.b64encode(f"View:{len(self.views)}".encode()).decode()
        project = {"id": "P0", "name": variables["projectName"], "entityName": variables["entityName"]}
        times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
        kept = {key: variables.get(key) for key in ("name", "displayName", "description", "type", "spec")}
        self.views[name] = {"id": name, "project": project, **times, **kept}
        self.saves.append(name)
        return {"upsertView": {"view": self.views[name], "inserted": given is None}}

    answer_UpsertView2 = answer_upsertView

    def answer_SpecificReport(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"view": self.views.get(variables["reportId"])}

    # file_stream and files --------------------------------------------------------------------------------------------

    def stream(self, run: StoredRun, message: dict[str, Any]) -> None:
        """Keep the lines of a message, each at its offset; a summary is one line that is replaced."""
        for file, chunk in (message.get("files") or {}).items():
            stored = run.streams.setdefault(file, {})
            for number, line in enumerate(chunk["content"]):
                stored[chunk["offset"] + number] = line
        if message.get("complete"):
            run.running, run.exit_code = False, int(message.get("exitcode") or 0)


class RequestHandler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server_double: WandbDouble

    def handle(self) -> None:
        """Serve until the client is gone, in whatever way it goes."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if path.endswith("/graphql"):
            self.graphql(json.loads(body))
        elif found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            self.file_stream([unquote(part) for part in found.groups()], json.loads(body))
        else:
            self.server_double.unanswered.append(f"POST {path}")
            self.reply(404, {"error": "not known"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        double = self.server_double
        _, _, entity, project, run, name = unquote(urlsplit(self.path).path).split("/", 5)
        double.requests.append(f"upload {name}")
        if self.failed(double.fault("upload")):
            return
        with double.lock:
            double.runs[entity, project, run].files[name] = body
        self.reply(200, {})

    def do_GET(self) -> None:
        double = self.server_double
        path = unquote(urlsplit(self.path).path)
        if not path.startswith("/download/"):
            double.unanswered.append(f"GET {path}")
            self.reply(404, {"error": "not known"})
            return
        _, _, entity, project, run, name = path.split("/", 5)
        double.requests.append(f"download {name}")
        if not self.failed(double.fault("download")):
            self.reply(200, double.runs[entity, project, run].files[name])

    def graphql(self, message: dict[str, Any]) -> None:
        double = self.server_double
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", message["query"])
        name = message.get("operationName") or (found[1] if found else message["query"].split()[0])
        double.requests.append(f"graphql {name}")
        if self.failed(double.fault(name, "graphql")):
            return
        if not self.authorized():
            self.reply(401, {"errors": [{"message": "invalid api key"}]})
            return
        with double.lock:
            answer = double.answer(name, message.get("variables") or {})
        self.reply(200, answer)

    def file_stream(self, place: list[str], message: dict[str, Any]) -> None:
        double = self.server_double
        double.requests.append(f"file_stream {place[2]}")
        if self.failed(double.fault("file_stream")):
            return
        if not self.authorized():
            self.reply(401, {"error": "invalid api key"})
            return
        with double.lock:
            run = double.runs.get((place[0], place[1], place[2]))
            if run is not None:
                double.stream(run, message)
        self.reply(200 if run is not None else 404, {"exitcode": None, "limits": {}})

    def authorized(self) -> bool:
        """Whether the request has one of the keys."""
        given = base64.b64decode((self.headers.get("Authorization") or "").removeprefix("Basic ") + "==")
        return given.decode(errors="replace").partition(":")[2] in self.server_double.keys

    def failed(self, fault: int | str | None) -> bool:
        """Behave as the fault says; whether there was one."""
        if fault is None:
            return False
        if fault == "hang":
            self.server_double.released.wait()
        if isinstance(fault, int):
            self.reply(fault, {"errors": [{"message": "a fault of the test double"}]})
        else:
            self.close_connection = True
        return True

    def reply(self, status: int, body: Any) -> None:
        """Send JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client is gone


@contextmanager
def for_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbDouble]:
    """A server that the client in this process talks to, and to no other, as long as it lasts."""
    import wandb

    with WandbDouble() as double:
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_SILENT", "true")
        wandb.teardown()  # forgets the settings of tests before
        yield double
        wandb.teardown()
