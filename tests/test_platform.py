"""The whole tier `full` at work: a lost worker, traces, metrics, a release that nobody notices.

`platform/` has what its owner adds: a proxy before two replicas of the API, two workers, and a
collector of traces. Everything is taken down afterwards, with its volumes and images.
"""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from csv import DictReader
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from stack import BACKFILL, ENDED, METRICS, Stack
from steps import ROOT, environment, free_port, needs_docker, of_tiers, run

pytestmark = [needs_docker, of_tiers(["full"])]

ROLES = {"api": 2, "worker": 2, "relay": 1, "beat": 1}
OTHERS = ("postgres", "redis", "proxy", "collector")
SETTINGS = """
SPINE_API_PORT={port}
SPINE_API_RATE=100000
SPINE_WORKER_PROCESSES=1
SPINE_LEASE_SECONDS=10
SPINE_DRAIN_SECONDS=5
SPINE_METRICS_PORT=9464
OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318
OTEL_BSP_SCHEDULE_DELAY=200
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
WAY = ["POST /executions", "submit", "run otc_backfill_range", "submit", "run otc_backfill_day"]
STAGES = ("captured", "normalized", "computed")
TELL = """
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:9464/metrics").read().decode())
"""
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
PSQL = "PGPASSWORD=$POSTGRES_PASSWORD exec psql --username=spine --tuples-only --no-align"
CLIENTS, ROUNDS = 2, 10
# What the next release does to the schema, in the model and in the migration.
COLUMN = ('    Column("computed_at", ', '    Column("remark", Text),\n    Column("computed_at", ')
ADD_COLUMN = '    op.add_column("otc_metrics_daily", sa.Column("remark", sa.Text()))\n'
VERSION = ('        version="1",\n', '        version="2",\n')


@dataclass
class Platform(Stack):
    """The services, container by container."""

    def release(self, tag: str) -> str:
        """The image of a tag."""
        return f"{self.environment['COMPOSE_PROJECT_NAME']}:{tag}"

    def start(self, service: str) -> None:
        """Start the containers that a service lacks; those that it has stay as they are."""
        self.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", service)

    def containers(self, *services: str) -> list[str]:
        """The ids of those that run."""
        return self.compose("ps", "--quiet", *services).split()

    def images(self) -> Counter[str]:
        """The images that the roles run."""
        each = self.docker("inspect", "--format={{.Config.Image}}", *self.containers(*ROLES))
        return Counter(each.split())

    def sql(self, statement: str) -> str:
        return self.inside("postgres", "sh", "-c", f'{PSQL} --command "{statement}"')

    @contextmanager
    def nobody_writes_to(self, table: str) -> Iterator[None]:
        """Hold whoever wants to, for as long as the block."""
        with subprocess.Popen(
            ["sh", "scripts/compose.sh", "exec", "-T", "postgres", "sh", "-c", PSQL],
            cwd=self.repo,
            env=environment(**self.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as session:
            assert session.stdin
            assert session.stdout
            print(f"BEGIN; LOCK TABLE {table} IN SHARE MODE;", file=session.stdin, flush=True)
            assert [session.stdout.readline() for _ in range(2)] == ["BEGIN\n", "LOCK TABLE\n"]
            try:
                yield
            finally:
                session.stdin.close()  # which ends the session, and with it the transaction

    def spans(self) -> list[dict[str, Any]]:
        """What was collected of the backfill's trace."""
        lines = self.docker("logs", *self.containers("collector")).splitlines()
        return [span for span in map(json.loads, lines) if span["trace_id"] == TRACE]

    def told_by(self, container: str) -> str:
        """What a process tells Prometheus."""
        return self.docker("exec", container, "python", "-c", TELL)

    def proxy(self, command: str) -> str:
        return self.inside("proxy", "sh", "-c", f"echo '{command}' | socat - /tmp/haproxy.sock")

    def servers(self) -> dict[str, dict[str, str]]:
        """What the proxy knows of each replica, by its address."""
        rows = DictReader(self.proxy("show stat").removeprefix("# ").splitlines())
        return {row["addr"]: row for row in rows if row["svname"].startswith("replica")}

    def ready(self) -> set[str]:
        """The addresses of the replicas that the proxy sends requests to."""
        return {address for address, row in self.servers().items() if row["status"] == "UP"}


def made_by(span: dict[str, Any]) -> str:
    """The process that a span is of: its host and number."""
    return str(span["resource"]["service.instance.id"])


@pytest.fixture(scope="module")
def platform(
    rendered: Path, tier: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """The platform, started by `make up`; the last test of it takes it down."""
    repo = shutil.copytree(rendered, tmp_path_factory.mktemp("platform") / rendered.name)
    shutil.copytree(ROOT / "tests/platform", repo, dirs_exist_ok=True)
    port = free_port()
    (repo / ".env").write_text(SETTINGS.format(port=port), "utf-8")
    project = {"COMPOSE_PROJECT_NAME": f"{tier}-{port}"}
    found = Platform(repo, {*ROLES, *OTHERS}, port, project)
    try:
        run("make", "up", cwd=repo, exit_code=0, **project)
        found.key = found.make_key("desk", "read", "submit")
        found.until(lambda: len(found.ready()) == ROLES["api"])
        yield found
    finally:
        found.take_down()


@dataclass
class Backfill:
    """A backfill that a worker was lost from, and the worker that was."""

    root: dict[str, Any]
    days: list[dict[str, Any]]
    lost: str

    @property
    def path(self) -> str:
        return f"/executions/{self.root['id']}"


@pytest.fixture(scope="module")
def backfill(platform: Platform) -> Backfill:
    """While both workers are at a day that they cannot finish, one of them is killed."""
    lost, _ = platform.containers("worker")
    with platform.nobody_writes_to("otc_metrics_daily"):
        more = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        submitted = platform.call("/executions", BACKFILL, more)
        assert submitted.status == 202, submitted.body
        found = Backfill(submitted.json, [], lost)

        def both_are_at_it() -> bool:
            stages = [span for span in platform.spans() if span["name"] == "captured"]
            return len({made_by(span) for span in stages}) == ROLES["worker"]

        platform.until(both_are_at_it)
        platform.docker("kill", "--signal=KILL", lost)

    def ended() -> bool:
        found.root = platform.call(found.path).json
        return found.root["status"] in ENDED

    platform.until(ended)
    found.days = platform.call(f"/executions?parent_id={found.root['id']}").json["items"]
    platform.start("worker")
    return found


def test_each_service_is_up(platform: Platform) -> None:
    services = [json.loads(line) for line in platform.compose("ps", "--format=json").splitlines()]
    counts = Counter(service["Service"] for service in services)
    assert counts == {**dict.fromkeys(platform.services, 1), **ROLES}
    assert platform.images() == {platform.release("local"): sum(ROLES.values())}
    assert platform.inside("api", "spine", "db", "upgrade") == "up to date", "it was not migrated"


def test_only_who_has_a_key_of_the_scope_may_submit(platform: Platform) -> None:
    reader = replace(platform, key=platform.make_key("reader", "read"))
    for caller, status in ((replace(platform, key=None), 401), (reader, 403)):
        refused = caller.call("/executions", BACKFILL)
        assert refused.status == status, refused.body
        assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
    assert replace(platform, key=None).call("/metrics").status == 401
    assert reader.call("/executions?pipeline=otc_backfill_range").json["items"] == []


def test_what_a_lost_worker_had_begun_is_done_by_the_other(
    platform: Platform, backfill: Backfill
) -> None:
    assert backfill.root["status"] == "succeeded"
    assert [day["status"] for day in backfill.days] == ["succeeded"] * 9
    assert sorted(day["attempt"] for day in backfill.days) == [1] * 8 + [2]
    platform.metrics_are_those_expected()
    events = platform.call(f"{backfill.path}/events").json["items"]
    assert events[0]["kind"] == "submitted"
    assert events[0]["data"]["by"] == "desk"
    assert len(platform.containers("worker")) == ROLES["worker"]
    platform.inside("api", "spine", "doctor")


def test_one_trace_leads_from_the_request_to_every_stage(
    platform: Platform, backfill: Backfill
) -> None:
    message = "enqueue backfill"

    def way_to(span: dict[str, Any]) -> list[str]:
        above = [other for other in spans if other["span_id"] == span["parent_id"]]
        return [*(way_to(above[0]) if above else ()), span["name"]]

    def named(name: str) -> list[dict[str, Any]]:
        return [span for span in spans if span["name"] == name]

    run_of_a_day = WAY[-1]
    platform.until(lambda: [s["name"] for s in platform.spans()].count(run_of_a_day) == 9)
    spans = platform.spans()
    (request,) = named("POST /executions")
    assert request["parent_id"] == CALLER
    assert request["resource"]["service.name"] == "market-spine-api"
    executions = f"SELECT count(*) FROM executions WHERE traceparent LIKE '00-{TRACE}-%'"
    assert platform.sql(executions) == "10", "the ledger has lost it"
    messages = sorted(way_to(span) for span in named(message))
    assert messages == sorted([[*WAY[:2], message], *[[*WAY[:4], message]] * 9])
    for stage in STAGES:
        ways = [way_to(span) for span in named(stage)]
        assert ways.count([*WAY, stage]) == 9
        # What was lost had no time to tell what its stages belonged to.
        assert all(way == [stage] for way in ways if way != [*WAY, stage])
    workers = {made_by(span).split(":")[0] for span in named("captured")}
    assert len(workers) == ROLES["worker"]
    assert backfill.lost[:12] in workers
    (back,) = named("take back")
    again = [span["links"] for span in spans if span["attributes"].get("spine.attempt") == 2]
    assert back["resource"]["service.name"] == "market-spine-relay"
    assert [back["span_id"]] in again


def test_metrics_are_of_what_was_done(platform: Platform, backfill: Backfill) -> None:
    done: Counter[tuple[str, str]] = Counter()
    for day in backfill.days:
        for event in platform.call(f"/executions/{day['id']}/events").json["items"]:
            if event["kind"] in STAGES:
                counts = {k: n for k, n in event["data"].items() if isinstance(n, int)}
                done.update({(event["kind"], kind): count for kind, count in counts.items()})
    assert {stage for stage, _ in done} == {*STAGES}
    workers = [platform.told_by(worker) for worker in platform.containers("worker")]
    for (stage, kind), count in done.items():
        labels = {"pipeline": "otc_backfill_day", "stage": stage, "kind": kind}
        assert sum(total(told, "spine_rows_total", **labels) for told in workers) == count, labels
    (relay,), (beat,) = platform.containers("relay"), platform.containers("beat")
    assert total(platform.told_by(relay), "spine_relay_taken_back_total") == 1
    assert total(platform.told_by(beat), "spine_schedule_ticks_total", schedule="normalize") > 0
    requests = {"method": "POST", "route": "/executions", "status": "202"}
    replicas = [platform.told_by(replica) for replica in platform.containers("api")]
    assert sum(total(told, "spine_http_requests_total", **requests) for told in replicas) == 1
    told = platform.call("/metrics").body.decode()
    assert total(told, "spine_store_up") == 1
    labels = {"pipeline": "otc_backfill_day", "status": "succeeded"}
    assert total(told, "spine_ended_last_hour", **labels) == 9


def total(told: str, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have the labels."""
    return sum(
        float(value)
        for found, given, value in SAMPLE.findall(told)
        if found == name and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', given)).items()
    )


@pytest.mark.usefixtures("backfill")
def test_a_release_fails_no_request(platform: Platform) -> None:
    """The schema is upgraded first, then each replica is replaced, and then the other processes."""
    make_next_release(platform)
    platform.environment["TAG"] = "next"
    old = platform.containers("api")
    with traffic(platform) as clients:
        assert clients.are_answered() == {"1"}
        said = platform.compose("run", "--rm", "-T", "migrate")
        assert said.strip() == "upgraded to own_0002"
        assert clients.are_answered() == {"1"}, "with the schema of the next one"
        for replica, releases in zip(old, ({"1", "2"}, {"2"}), strict=True):
            replace_replica(platform, replica)
            assert clients.are_answered() == releases
        platform.compose("up", "--detach", "--wait", "--no-deps", "worker", "relay", "beat")
        clients.are_answered()
    assert platform.images() == {platform.release("next"): sum(ROLES.values())}
    assert not {*old} & {*platform.containers("api")}
    platform.inside("api", "spine", "db", "check")
    theirs = "idempotency_key LIKE 'client-%'"
    ends = f"SELECT status, count(*) FROM executions WHERE {theirs} GROUP BY status"
    rounds = sum(client.rounds for client in clients.each)
    platform.until(lambda: platform.sql(ends) == f"succeeded|{rounds}")
    platform.inside("api", "spine", "doctor")


def make_next_release(platform: Platform) -> None:
    """Another version, with one column more, whose migration is begun as the README says."""
    source = platform.repo / "src/market_spine"
    for path, (old, new) in ((source / "schema.py", COLUMN), (source / "api/app.py", VERSION)):
        text = path.read_text("utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), "utf-8")
    begin = (
        "cp -r migrations /tmp; export SPINE_MIGRATIONS=/tmp/migrations; "
        "spine db revision 'remarks on a day' >&2; cat /tmp/migrations/own/own_0002_*"
    )
    begun = platform.inside("api", "sh", "-ec", begin)
    migration = platform.repo / "migrations/own/own_0002_remarks_on_a_day.py"
    migration.write_text(f"{begun}\n{ADD_COLUMN}", "utf-8")
    runs, tag = f"RUNS={platform.release('local')}", platform.release("next")
    words = ("--quiet", "--file=deploy/next.Dockerfile", "--build-arg", runs, "--tag", tag)
    platform.docker("build", *words, ".")


def replace_replica(platform: Platform, old: str) -> None:
    """Send a replica no more requests, end it, start one of the new tag, and send it requests."""
    networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = f"{platform.docker('inspect', f'--format={networks}', old)}:8000"
    name = platform.servers()[address]["svname"]
    platform.proxy(f"set server api/{name} state drain")
    platform.until(lambda: platform.servers()[address]["scur"] == "0")
    platform.docker("stop", old)
    platform.docker("rm", old)
    platform.start("api")
    platform.proxy(f"set server api/{name} state ready")
    platform.until(lambda: len(platform.ready()) == ROLES["api"])


@dataclass
class Client:
    """Submits, follows and asks, over and over, on a connection that it keeps."""

    name: str
    connection: HTTPConnection
    key: str
    rounds: int = 0
    releases: set[str] = field(default_factory=set)  # of the API, that have answered

    def go_on(self, stopping: Event) -> None:
        """Make rounds until it is told to stop; anything unexpected ends it with an error."""
        with closing(self.connection):
            while not stopping.wait(0.02):
                self.make_round()
                self.rounds += 1

    def make_round(self) -> None:
        """Seven requests, so that each kind comes to either replica by turns."""
        key = f"{self.name}-{self.rounds}"
        submitted = self.ask("/executions", 202, key)["id"]
        assert self.ask("/executions", 202, key)["id"] == submitted, "it was submitted twice"
        assert self.ask(f"/executions/{submitted}")["pipeline"] == "otc_compute_daily_metrics"
        assert self.ask(METRICS.format("ALDRF"))["items"]
        assert self.ask("/executions?limit=1")["items"]
        assert self.ask("/readyz")
        self.releases.add(self.ask("/openapi.json")["info"]["version"])

    def ask(self, path: str, status: int = 200, key: str = "") -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        if key:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": key}
            body = json.dumps({"pipeline": "otc_compute_daily_metrics"})
            self.connection.request("POST", path, body, headers)
        else:
            self.connection.request("GET", path, headers=headers)
        answer = self.connection.getresponse()
        said = answer.read()
        assert answer.status == status, (path, answer.status, said)
        return json.loads(said)


@dataclass
class Traffic:
    """What some clients do meanwhile."""

    platform: Platform
    each: list[Client]
    work: list[Future[None]] = field(default_factory=list)

    def are_answered(self) -> set[str]:
        """Wait until each client has made some rounds more; returns the releases that answered."""
        for client in self.each:
            client.releases.clear()
        wanted = [client.rounds + ROUNDS for client in self.each]

        def done() -> bool:
            for work in self.work:
                if work.done():
                    work.result()
            return all(c.rounds >= rounds for c, rounds in zip(self.each, wanted, strict=True))

        self.platform.until(done)
        return set().union(*(client.releases for client in self.each))


@contextmanager
def traffic(platform: Platform) -> Iterator[Traffic]:
    """Clients that ask all the time, for as long as the block; it fails if one of them does."""
    stopping = Event()
    connections = [HTTPConnection("127.0.0.1", platform.port, timeout=30) for _ in range(CLIENTS)]
    each = [Client(f"client-{n}", c, str(platform.key)) for n, c in enumerate(connections)]
    clients = Traffic(platform, each)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients.work = [pool.submit(client.go_on, stopping) for client in clients.each]
        try:
            yield clients
        finally:
            stopping.set()
    for work in clients.work:
        work.result()
