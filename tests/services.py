"""Other people's servers, as private processes of the tests, and our own worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from api.settings import Settings

WORKER = Path(__file__).with_name("job_worker.py")


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps out of the PATH; None where there is no Postgres."""
    found = shutil.which("pg_ctl")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return Path(found).resolve().parent if found else (versions[-1] if versions else None)


@dataclass
class Postgres:
    """A Postgres server of our own."""

    programs: Path
    folder: Path
    port: int

    password = "not-to-be-shown"

    def url(self, database: str) -> str:
        """The address of one database, password included."""
        return f"postgresql://smalti:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "60", "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        self._run("pg_ctl", "-D", "data", "-m", how, "-w", "stop")

    def create(self, database: str) -> str:
        """A new empty database; its address."""
        address = f"host=127.0.0.1 port={self.port} user=smalti password={self.password} dbname=postgres"
        self._run("psql", "-q", "-d", address, "-c", f'CREATE DATABASE "{database}"')
        return self.url(database)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        if os.geteuid() == 0:  # it refuses to run as root
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def postgres_server(programs: Path, folder: Path) -> Iterator[Postgres]:
    """A running server with one role, smalti; gone afterwards. `folder` must be reachable for everybody."""
    server = Postgres(programs, folder, free_port())
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "password").write_text(server.password)
    server._run("initdb", "-D", "data", "-U", "smalti", "-A", "scram-sha-256", "--pwfile=password", "-N")
    server.start()
    try:
        yield server
    finally:
        server.stop("immediate")


@dataclass
class Worker:
    """A worker process; see job_worker.py."""

    process: subprocess.Popen[str]
    name: str
    home: Path

    def tell(self, **what: object) -> None:
        """Make blocks slow (seconds) or one of them broken; "" for neither."""
        for file, value in what.items():
            (self.home / file).write_text(str(value))

    def notes(self, word: str, *, of: str | None = None) -> list[str]:
        """Blocks that were begun or ended by anybody, or by one worker, in order."""
        notes = self.home / "notes"
        lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
        return [block for told, name, block, _ in lines if told == word and of in (None, name)]

    def wait_for(self, word: str, count: int, seconds: float = 60) -> None:
        """Wait until so many blocks were begun or ended by anybody."""
        until = time.monotonic() + seconds
        while len(self.notes(word)) < count:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}"
            assert time.monotonic() < until, f"only {self.notes(word)} after {seconds} s"
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, seconds: float = 60) -> int:
        """Ask it to end, as systemd and Kubernetes do; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def environment(settings: Settings) -> dict[str, str]:
    """The environment that makes another process see the same settings."""
    secret = settings.jobs_database
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SMALTI_")},
        "SMALTI_HOME": str(settings.home),
        "SMALTI_STORAGE": settings.storage,
        "SMALTI_CATALOGUE": str(settings.catalogue),
        "SMALTI_WORKER_LAPSE": str(settings.worker_lapse),
        "SMALTI_SCENES__HOSTS": ",".join(settings.scenes.hosts),
        **({"SMALTI_STORAGE": settings.storage} if settings.storage else {}),
        **({"SMALTI_JOBS_DATABASE": secret.get_secret_value()} if secret else {}),
    }


@contextmanager
def worker(settings: Settings, name: str = "one") -> Iterator[Worker]:
    """A running worker of some settings, killed afterwards."""
    command = [sys.executable, str(WORKER), name]
    process = subprocess.Popen(command, env=environment(settings), cwd=WORKER.parents[1], text=True)
    try:
        yield Worker(process, name, settings.home)
    finally:
        process.kill()
        process.wait()


@dataclass
class S3:
    """An S3-compatible server (moto's) with one bucket and one key that may use it."""

    process: subprocess.Popen[bytes]
    endpoint: str
    bucket: str = "bucket"
    key: str = ""
    secret: str = ""

    def place(self, prefix: str) -> str:
        """An address in its bucket."""
        return f"s3://{self.bucket}/{prefix}"

    def variables(self) -> dict[str, str]:
        """What leads both of our clients there, as an operator would set it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Takes connections and answers nothing, as a server that was cut off."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def open_to_all(self) -> None:
        """Let everybody read what is in the bucket, and nobody write."""
        to = [f"arn:aws:s3:::{self.bucket}", f"arn:aws:s3:::{self.bucket}/*"]
        allow = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": to}
        body = json.dumps({"Version": "2012-10-17", "Statement": [allow]}).encode()
        address, said = f"{self.endpoint}/{self.bucket}?policy", {"Content-Type": "application/json"}
        urlopen(Request(address, body, said, method="PUT"), timeout=10).close()

    def _user(self, action: str, **arguments: str) -> str:
        body = urlencode({"Action": action, "UserName": "smalti", "Version": "2010-05-08", **arguments}).encode()
        signed = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0"
        return str(urlopen(Request(self.endpoint, body, {"Authorization": signed}), timeout=10).read().decode())

    def set_up(self) -> None:
        """Make the bucket and the key: the four requests for which it asks no credentials."""
        urlopen(Request(f"{self.endpoint}/{self.bucket}", method="PUT"), timeout=10).close()
        self._user("CreateUser")
        made = self._user("CreateAccessKey")
        self.key, self.secret = (
            re.findall(f"<{name}>(.*?)</{name}>", made)[0] for name in ("AccessKeyId", "SecretAccessKey")
        )
        allow = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
        self._user("PutUserPolicy", PolicyName="all", PolicyDocument=allow)


def moto_python() -> Path:
    """The Python that has moto's server; it need not be there."""
    root = Path(__file__).resolve().parents[1]
    return Path(os.environ.get("SMALTI_MOTO_PYTHON", root / ".moto" / "bin" / "python"))


@contextmanager
def s3_server(python: Path, *, guarded: bool = True) -> Iterator[S3]:
    """A running server, which checks credentials if it is guarded (it cannot do that and answer the unsigned)."""
    port = free_port()
    run = "import sys; from moto.server import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [str(python), "-c", run, "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4" if guarded else "inf"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not listens(port):
            assert process.poll() is None, "moto's server ended"
            assert time.monotonic() < until, "moto's server does not start"
            time.sleep(0.1)
        server = S3(process, f"http://127.0.0.1:{port}")
        server.set_up()
        yield server
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0
