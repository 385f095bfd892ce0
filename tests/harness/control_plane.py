"""etcd, kube-apiserver and, if asked, controllers and scheduler: an API that acts like a cluster's, without a node.

Objects are validated, stored, watched and garbage-collected as on any cluster; no pod ever runs, so a test plays the
kubelet by writing pod status (and the Job and Deployment controllers by writing theirs, where they are left out).
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType

import httpx
from tests.harness import binaries
from tests.harness.access import Access
from tests.harness.certificates import Authority
from tests.harness.processes import Program, StartError, free_port, wait_for

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
LOOPBACK = "127.0.0.1"

# what keeps house; Jobs, Deployments and pods are left to the test
HOUSEKEEPING = (
    "namespace",
    "serviceaccount",
    "root-ca-certificate-publisher-controller",
    "garbagecollector",
    "resourcequota",
    "clusterrole-aggregation-controller",
)
# and what turns Jobs and Deployments into pods, and counts them
WORKLOADS = (
    *HOUSEKEEPING,
    "job",
    "deployment",
    "replicaset",
    "podgc",
    "endpointslice-controller",
    "persistentvolumeclaim-protection-controller",
    "ttl-after-finished",
)
ALL = ("*",)

# collecting garbage was a fifth of the servers' work in these tests; memory is what there is enough of
LESS_GARBAGE_COLLECTION = {"GOGC": "400"}
# of an API server that a single test asks: dealing out its time fairly was another fifth
ONE_CLIENT = ("--enable-priority-and-fairness=false",)


class ControlPlane(Access):
    """A control plane of the test's own, on free ports of `address`, gone when the context ends.

    `controllers` are names kube-controller-manager knows: (), HOUSEKEEPING, WORKLOADS or ALL. `directory` keeps
    everything (default: a new one, removed at the end), but for the logs where `logs` is another. Start it from the
    main thread: its programs die with the thread that started them.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        controllers: Collection[str] = (),
        scheduler: bool = False,
        address: str = LOOPBACK,
        logs: Path | None = None,
        apiserver_flags: Sequence[str] = (),
        controller_flags: Sequence[str] = (),
    ) -> None:
        self._temporary = directory is None
        directory = directory or Path(tempfile.mkdtemp(prefix="cai-control-plane-"))
        super().__init__(directory, directory / "admin.kubeconfig", admin_token=secrets.token_urlsafe(24))
        self.address = address
        self._logs = logs or directory
        self._controllers = tuple(controllers)
        self._scheduler = scheduler
        self._flags = {"apiserver": tuple(apiserver_flags), "controllers": tuple(controller_flags)}
        self._running: dict[str, Program] = {}
        self._programs: dict[str, Path] = {}

    def __enter__(self) -> ControlPlane:
        if not self._running:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Bring everything up; StartError with the end of a log, or Unavailable with what this machine lacks."""
        try:
            self._start()
        except BaseException:
            self.close(keep=True)
            raise

    def _start(self) -> None:
        names = ["etcd", "kube-apiserver", "kubectl"]
        names += ["kube-controller-manager"] if self._controllers else []
        names += ["kube-scheduler"] if self._scheduler else []
        self._programs = binaries.find_or_build(*names)
        self._make_certificates()
        self._start_etcd()
        self._start_apiserver_on_free_port()
        self.admin_certificate = self.authority.client("admin", "admin", "system:masters")
        self.write_kubeconfig(self.kubeconfig, certificate=self.admin_certificate)
        self._start_clients()

    def close(self, keep: bool = False) -> None:
        """Kill every program and remove the directory, unless it was given or is to be kept."""
        for program in reversed(self._running.values()):
            program.kill()
        self._running.clear()
        if self._temporary and not keep and "CAI_TEST_KEEP" not in os.environ:
            shutil.rmtree(self.directory, ignore_errors=True)

    # ---- the API server's own life ----------------------------------------------------------------------------------

    def stop_apiserver(self, graceful: bool = True) -> None:
        """Stop the API server; not graceful: connections break off in the middle, as when its machine is lost."""
        apiserver = self._running.pop("kube-apiserver")
        if graceful:
            # it tells clients to go elsewhere and then waits a minute for watches, which stay as long as they may
            apiserver.stop(patience_s=4)
        else:
            apiserver.kill()

    def start_apiserver(self) -> None:
        """Start the stopped API server again: same port, same objects. Returns once it is ready."""
        apiserver = self._launch("kube-apiserver", self._apiserver_command())
        try:
            apiserver.wait_until(self._is_ready)
        except StartError:
            self._running.pop("kube-apiserver").kill()
            raise

    def restart_apiserver(self, graceful: bool = True) -> None:
        """Stop and start the API server; watches of every client break."""
        self.stop_apiserver(graceful)
        self.start_apiserver()

    def makes_service_accounts(self) -> bool:
        """Whether the controller that does so was asked for."""
        return bool({"serviceaccount", "*"} & set(self._controllers))

    def is_running(self, name: str) -> bool:
        """Whether the program of that name was started and lives."""
        return name in self._running and self._running[name].running

    def failed(self) -> str | None:
        """The name and last words of a program that ended though nobody stopped it."""
        for program in self._running.values():
            if not program.running:
                return f"{program.name} ended.\n{program.last_lines()}"
        return None

    def rss_mib(self) -> dict[str, int]:
        """Resident memory of every program."""
        return {
            name: int(Path(f"/proc/{program.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20
            for name, program in self._running.items()
        }

    # ---- starting ---------------------------------------------------------------------------------------------------

    def _make_certificates(self) -> None:
        self.authority = Authority(self.directory / "certificates")
        self.ca = self.authority.pair.certificate
        names = ["DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc", "DNS:localhost"]
        names += [f"IP:{address}" for address in dict.fromkeys([SERVICE_ADDRESS, LOOPBACK, self.address])]
        self._server = self.authority.server("apiserver", "/CN=kube-apiserver", names)
        self._to_kubelet = self.authority.client("apiserver-kubelet", "kube-apiserver", "system:masters")
        self._tokens = self.authority.signing_key("service-accounts")
        tokens = self.directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.admin_token},admin,admin,"system:masters"\n')

    def _start_etcd(self) -> None:
        for last in (False, False, True):
            url = f"http://{LOOPBACK}:{free_port()}"
            command: list[str | Path] = [self._programs["etcd"], f"--data-dir={self.directory / 'etcd'}"]
            # what a test writes need not survive the machine, only the process
            command += ["--logger=zap", "--log-level=warn", "--unsafe-no-fsync", "--backend-batch-interval=1s"]
            command += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
            command += [f"--listen-peer-urls=http://{LOOPBACK}:0", "--quota-backend-bytes=4294967296"]
            etcd = self._launch("etcd", command, {"ETCD_UNSUPPORTED_ARCH": _go_architecture()})
            self._etcd = url
            try:
                etcd.wait_until(self._etcd_answers)
                return
            except StartError:
                if last or "address already in use" not in etcd.last_lines():
                    raise
                self._running.pop("etcd").kill()

    def _start_apiserver_on_free_port(self) -> None:
        for last in (False, False, True):
            self._port = free_port(self.address)
            self.url = f"https://{self.address}:{self._port}"
            try:
                self.start_apiserver()
                return
            except StartError as error:
                if last or "address already in use" not in str(error):
                    raise

    def _start_clients(self) -> None:
        if self._controllers:
            self._start_client("kube-controller-manager", self._controller_flags())
        if self.makes_service_accounts():
            self._wait_for_default_account()
        if self._scheduler:
            self._start_client("kube-scheduler", [])

    def _start_client(self, name: str, flags: Sequence[str]) -> None:
        config = self.directory / f"{name}.kubeconfig"
        user = self.authority.client(name, f"system:{name}", "system:masters")
        self.write_kubeconfig(config, certificate=user)
        common = [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"]
        common += ["--kube-api-qps=200", "--kube-api-burst=400"]
        self._launch(name, [self._programs[name], *common, *flags])

    def _apiserver_command(self) -> list[str | Path]:
        return [
            self._programs["kube-apiserver"],
            f"--etcd-servers={self._etcd}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self._port}",
            # a loopback address may not stand in the Service's endpoints
            *(["--endpoint-reconciler-type=none"] if self.address == LOOPBACK else []),
            f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}",
            f"--client-ca-file={self.ca}",
            f"--kubelet-client-certificate={self._to_kubelet.certificate}",
            f"--kubelet-client-key={self._to_kubelet.key}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self._tokens.certificate}",
            f"--service-account-signing-key-file={self._tokens.key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--allow-privileged=true",
            "--profiling=false",
            *self._flags["apiserver"],
        ]

    def _controller_flags(self) -> list[str]:
        return [
            f"--controllers={','.join(self._controllers)}",
            f"--service-account-private-key-file={self._tokens.key}",
            f"--root-ca-file={self.ca}",
            "--profiling=false",
            *self._flags["controllers"],
        ]

    def _launch(self, name: str, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Program:
        given = {**LESS_GARBAGE_COLLECTION, **(environment or {})}
        program = Program(name, command, self._logs / f"{name}.log", environment=given)
        self._running[name] = program
        return program

    def _is_ready(self) -> bool:
        # "default" is made by the server itself, a moment after it says it is ready
        with self.client(timeout_s=5) as client:
            try:
                return all(client.get(path).status_code == 200 for path in ("/readyz", "/api/v1/namespaces/default"))
            except httpx.TransportError:
                return False

    def _etcd_answers(self) -> bool:
        try:
            return httpx.get(f"{self._etcd}/health", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _wait_for_default_account(self) -> None:
        with self.client() as client:
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            wait_for("the service account of namespace default", lambda: client.get(path).status_code == 200)


def _go_architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
