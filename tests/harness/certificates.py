"""Certificates of a test's own authority, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.processes import Unavailable

DAYS = "30"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates for servers and clients; everything lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        if not shutil.which("openssl"):
            raise Unavailable("the openssl command makes the cluster's certificates and is missing: install openssl")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.pair = Pair(directory / "ca.crt", directory / "ca.key")
        self._sign(
            "ca", "/CN=cai-test-ca", ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"], None
        )

    def server(self, name: str, subject: str, names: Sequence[str]) -> Pair:
        """For a server reached by `names`: "DNS:kubernetes", "IP:127.0.0.1"; it may be shown to servers as well."""
        usage = ["extendedKeyUsage=serverAuth,clientAuth", f"subjectAltName={','.join(names)}"]
        return self._sign(name, subject, usage, self.pair)

    def client(self, name: str, user: str, group: str | None = None) -> Pair:
        """For a client that Kubernetes knows as `user` of `group`."""
        subject = f"/O={group}/CN={user}" if group else f"/CN={user}"
        return self._sign(name, subject, ["extendedKeyUsage=clientAuth"], self.pair)

    def signing_key(self, name: str) -> Pair:
        """A key for signing tokens; the "certificate" is its public half."""
        pair = Pair(self._directory / f"{name}.pub", self._directory / f"{name}.key")
        _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", pair.key)
        _openssl("pkey", "-in", pair.key, "-pubout", "-out", pair.certificate)
        return pair

    def _sign(self, name: str, subject: str, extensions: Sequence[str], issuer: Pair | None) -> Pair:
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        words: list[str | Path] = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        words += ["-days", DAYS, "-subj", subject, "-keyout", pair.key, "-out", pair.certificate]
        if issuer:
            words += ["-CA", issuer.certificate, "-CAkey", issuer.key, "-addext", "basicConstraints=critical,CA:FALSE"]
        for extension in extensions:
            words += ["-addext", extension]
        _openssl(*words)
        return pair


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"openssl {words[0]} failed: {done.stderr.strip()}")
