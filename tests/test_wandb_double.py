"""What the real client sends arrives in the test double, and what it asks for comes back."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.wandb_double import WandbDouble

CLIENT = """
import json, sys, wandb
def log(steps):
    run = wandb.init(project="p", id="lenet5-s0", group="mnist/lenet5", resume="allow", config={"lr": 0.1}, dir=".",
                     settings=wandb.Settings(console="off", silent=True, x_disable_stats=True))
    for step in steps:
        run.log({"train/loss": 1 / (step + 1)}, step=step)
    run.summary["error"] = 1.5
    run.save("table.csv", policy="now")
    run.finish()
open("table.csv", "w").write("a,b")
log(range(0, 5))
log(range(3, 8))
run = wandb.Api().run("team/p/lenet5-s0")
(listed,) = wandb.Api().runs("team/p")
print(json.dumps([run.lastHistoryStep, run.summary["error"], run.config, run.state, listed.id, listed.group,
                  [row["_step"] for row in run.scan_history()], run.file("table.csv").download("down").read()]))
"""


def test_real_client_logs_resumes_and_reads_back(tmp_path: Path) -> None:
    with WandbDouble() as server:
        environment = {**os.environ, **server.environment(), "WANDB_MODE": "online"}
        command = [sys.executable, "-c", CLIENT]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        steps = list(range(8))  # the second start logs none of the steps that the server has
        found = json.loads(done.stdout)
        assert found == [7, 1.5, {"lr": 0.1}, "finished", "lenet5-s0", "mnist/lenet5", steps, "a,b"]
        run = server.run("lenet5-s0")
        assert [(row["_step"], row["train/loss"]) for row in run.history()] == [(n, 1 / (n + 1)) for n in steps]
        assert run.starts == 2
        assert run.config() == {"lr": 0.1}
        assert run.files["table.csv"] == b"a,b"
        assert server.unanswered == []
        assert server.count("UpsertBucket") >= 2


def test_faults_and_what_it_does_not_know() -> None:
    with WandbDouble() as server:
        server.fail("Viewer", 500, times=1)
        with pytest.raises(urllib.error.HTTPError, match="500"):
            ask(server, "query Viewer { viewer { id } }")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(server, "query Viewer { viewer { id } }")  # without a key
        server.keys.add("")
        assert ask(server, "query Viewer { viewer { id } }")["data"]["viewer"]["entity"] == "team"
        assert "errors" in ask(server, "query Nonsense { x }")
        assert server.unanswered == ["Nonsense"]
        server.answers["Nonsense"] = lambda variables: {"x": 1}
        assert ask(server, "query Nonsense { x }") == {"data": {"x": 1}}
        server.fail("graphql", "hang")
        with pytest.raises(TimeoutError):
            ask(server, "query Viewer { viewer { id } }", timeout=0.2)
        server.heal()
        server.fail("graphql", "close", times=1)
        with pytest.raises((ConnectionError, urllib.error.URLError)):
            ask(server, "query Viewer { viewer { id } }")
        assert server.count("graphql") == 7


def ask(server: WandbDouble, query: str, timeout: float = 10) -> dict:
    body = json.dumps({"query": query, "variables": {}}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/graphql", body), timeout=timeout) as answer:
        return json.load(answer)
