"""`docker compose up` as a user types it: it ends by itself and its files are the user's."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTEXT = (
    ".dockerignore", "LICENSE", "README.md", "codec", "constraints.txt", "deploy",
    "docker-compose.yml", "psrv", "pyproject.toml", "server", "worker",
)  # fmt: skip
SOMEBODY = 12345  # owns the mounted folder when the tests run as root


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


ASKED = os.environ.get("PSRV_TEST_DOCKER") == "1"
COMPOSE = next(
    (
        words
        for words in (("docker", "compose"), ("docker-compose",))
        if ASKED and _answers("docker", "info") and _answers(*words, "version")
    ),
    (),
)
pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(not ASKED, reason="builds images for minutes: make test-docker"),
    pytest.mark.skipif(ASKED and not COMPOSE, reason="no Docker engine with compose answers here"),
    pytest.mark.timeout(3000),
]


class Project:
    """A copy of what the images are made of, under a project name of its own.

    Attributes:
        name: compose's project name, new for each object.
        runs: the folder that the containers get as /runs.
        owner: user id that owns ``runs``.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"psrv-test-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        for name in CONTEXT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        self.runs = folder / "runs" / "compose"
        self.runs.mkdir(parents=True)
        self.owner = os.geteuid() or SOMEBODY
        os.chown(self.runs, self.owner, -1)

    def compose(self, *words: str, limit: float, **environment: str) -> str:
        done = subprocess.run(
            [*COMPOSE, "--project-name", self.name, *words],
            cwd=self.folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
        assert done.returncode == 0, f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def exit_codes(self) -> list[int]:
        """Exit codes of all containers of the project; -1 for one that has not ended."""
        mine = f"label=com.docker.compose.project={self.name}"
        ids = subprocess.check_output(["docker", "ps", "-aq", "--filter", mine], text=True).split()
        states = json.loads(subprocess.check_output(["docker", "inspect", *ids]))
        return [-1 if state["State"]["Running"] else state["State"]["ExitCode"] for state in states]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    try:
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "5", limit=120)


@pytest.mark.parametrize("workers", [4, 2])
def test_up_trains_and_ends_by_itself(project: Project, workers: int) -> None:
    scaled = {} if workers == 4 else {"PSRV_WORKERS": str(workers)}
    words = () if workers == 4 else ("--scale", f"worker={workers}")
    project.compose("build", limit=2400)
    output = project.compose("up", *words, limit=600, **scaled)

    assert project.exit_codes() == [0] * (workers + 1), output
    summary = json.loads((project.runs / "summary.json").read_text("utf-8"))
    assert summary["workers"] == workers
    assert (summary["task"], summary["method"]) == ("digits", "cd-adam")
    assert len(summary["replica_digest"]) == 64
    details = summary["workers_detail"]
    assert sorted(detail["rank"] for detail in details) == list(range(workers))
    assert {detail["digest"] for detail in details} == {summary["replica_digest"]}
    assert all((project.runs / f"worker-{rank}.jsonl").is_file() for rank in range(workers))
    owners = {path.stat().st_uid for path in project.runs.rglob("*")}
    assert owners == {project.owner}


def test_server_image_has_no_torch_and_runs_as_an_ordinary_user(project: Project) -> None:
    project.compose("build", "server", limit=2400)
    code = "import importlib.util as u, os; print(u.find_spec('torch'), os.getuid())"
    run = ["docker", "run", "--rm", "--entrypoint", "python", "psrv-server", "-c", code]
    assert subprocess.check_output(run, text=True, timeout=60).split() == ["None", "10001"]
