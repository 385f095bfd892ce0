"""Ways to talk to one cluster: clients, kubectl, tokens, kubeconfigs, namespaces of a test's own."""

from __future__ import annotations

import base64
import json
import os
import secrets
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from tests.harness import binaries
from tests.harness.certificates import Pair
from tests.harness.processes import Unavailable, wait_for


@dataclass
class Access:
    """One cluster as its admin sees it, who has a client certificate or a token; `directory` takes files we make."""

    directory: Path
    kubeconfig: Path
    url: str = ""
    ca: Path = Path()
    admin_token: str = ""
    admin_certificate: Pair | None = None

    @classmethod
    def of_kubeconfig(cls, kubeconfig: Path, directory: Path) -> Self:
        """The cluster of a kubeconfig's current context; Unavailable with a sentence if it cannot be used."""
        access = cls(directory, kubeconfig)
        shown = access.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json", check=False)
        if shown.returncode:
            raise Unavailable(f"{kubeconfig} names no cluster: {shown.stderr.strip()}")
        document = json.loads(shown.stdout)
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        if "certificate-authority-data" not in cluster or not {"token", "client-certificate-data"} & user.keys():
            raise Unavailable(
                f"{kubeconfig}: the tests need a certificate authority, and a user with a token or a client "
                "certificate; `kubectl create token` makes one for a service account bound to cluster-admin"
            )
        access.url = cluster["server"]
        access.ca = _decoded(directory / "ca.crt", cluster["certificate-authority-data"])
        access.admin_token = user.get("token", "")
        if not access.admin_token:
            certificate = _decoded(directory / "admin.crt", user["client-certificate-data"])
            access.admin_certificate = Pair(certificate, _decoded(directory / "admin.key", user["client-key-data"]))
        return access

    def client(self, token: str | None = None, timeout_s: float = 30.0) -> httpx.Client:
        """A client with the admin's rights, or those of `token`; paths are relative: "/api/v1/namespaces"."""
        context = ssl.create_default_context(cafile=str(self.ca))
        token = token or self.admin_token
        if not token and self.admin_certificate:
            context.load_cert_chain(self.admin_certificate.certificate, self.admin_certificate.key)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=timeout_s, trust_env=False)

    def token(self, namespace: str, service_account: str, seconds: int = 3600) -> str:
        """A token of an existing service account, as a pod of it would have one."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        with self.client() as client:
            answer = client.post(path, json={**request, "spec": {"expirationSeconds": seconds}})
        answer.raise_for_status()
        return str(answer.json()["status"]["token"])

    def kubectl(
        self, *words: str, stdin: str | None = None, check: bool = True, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the admin (or with `kubeconfig`); AssertionError with what it said if it fails and `check`."""
        program = binaries.find_or_build("kubectl")["kubectl"]
        command = [str(program), f"--kubeconfig={kubeconfig or self.kubeconfig}", *words]
        # what kubectl remembers of one cluster must not serve another
        environment = {**os.environ, "KUBECACHEDIR": str(self.directory / "kubectl-cache")}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment)
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr.strip()}"
        return done

    def write_kubeconfig(self, path: Path, *, certificate: Pair | None = None, token: str | None = None) -> Path:
        """A kubeconfig of one context for a client certificate or a token."""
        user: dict[str, Any] = {"token": token} if token else {}
        if certificate:
            user = {"client-certificate-data": _encoded(certificate.certificate)}
            user["client-key-data"] = _encoded(certificate.key)
        cluster = {"server": self.url, "certificate-authority-data": _encoded(self.ca)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def kubeconfig_of(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig with the rights of an existing service account."""
        path = self.directory / f"{namespace}.{service_account}.kubeconfig"
        return self.write_kubeconfig(path, token=self.token(namespace, service_account))

    def install_crds(self, directory: Path) -> None:
        """Install every CustomResourceDefinition of the directory and return once the server serves them."""
        self.kubectl("apply", "--server-side", "-f", str(directory))
        wait = ("wait", "--for=condition=Established", "--timeout=60s", "-f", str(directory))
        # kubectl takes a resource that has no status yet, a moment after it was made, for an error
        wait_for("the resources to be served", lambda: self.kubectl(*wait, check=False).returncode == 0)

    @contextmanager
    def namespace(self, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A fresh namespace; deleted, without waiting for its end, when the context ends."""
        name = f"test-{secrets.token_hex(4)}"
        with self.client() as client:
            client.post(
                "/api/v1/namespaces", json={"metadata": {"name": name, "labels": labels or {}}}
            ).raise_for_status()
            if self.makes_service_accounts():
                path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
                wait_for(f"the service account of namespace {name}", lambda: client.get(path).status_code == 200)
            try:
                yield name
            finally:
                # no answer: the test has stopped its API server
                with suppress(httpx.TransportError):
                    client.delete(f"/api/v1/namespaces/{name}")

    def makes_service_accounts(self) -> bool:
        """Whether a controller gives every namespace its default service account."""
        return True


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _decoded(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(base64.b64decode(text))
    return path
