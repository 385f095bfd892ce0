"""Volumes for claims, as a cluster's provisioner makes them: directories of this machine, removed with their claim."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx

STORAGE_CLASS = "local"
PROVISIONER = "cai.test/directories"
POLL_S = 0.5

Object = dict[str, Any]


class Provisioner:
    """Watches over claims of the default storage class from a thread of its own, between `start` and `stop`.

    Directories have mode 0770 and belong to user and group `owner`.
    """

    def __init__(self, client: httpx.Client, directory: Path, owner: int) -> None:
        self._client, self._directory, self._owner = client, directory, owner
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="provisioner", daemon=True)

    def start(self) -> None:
        """Make the storage class and begin."""
        document = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        }
        self._client.post("/apis/storage.k8s.io/v1/storageclasses", json=document).raise_for_status()
        self._thread.start()

    def stop(self) -> None:
        """Stop; what was made stays."""
        self._stopping.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                self._once()
            except httpx.HTTPError as error:
                print(f"provisioner: {error!r}", flush=True)

    def _once(self) -> None:
        volumes = {volume["metadata"]["name"]: volume for volume in self._list("persistentvolumes")}
        for claim in self._list("persistentvolumeclaims"):
            name = f"pvc-{claim['metadata']['uid']}"
            pending = claim["status"].get("phase") == "Pending" and not claim["spec"].get("volumeName")
            if pending and claim["spec"].get("storageClassName") == STORAGE_CLASS and name not in volumes:
                self._make(name, claim)
        for name, volume in volumes.items():
            annotations = volume["metadata"].get("annotations", {})
            ours = annotations.get("pv.kubernetes.io/provisioned-by") == PROVISIONER
            policy = volume["spec"]["persistentVolumeReclaimPolicy"]
            if ours and volume["status"].get("phase") == "Released" and policy == "Delete":
                shutil.rmtree(volume["spec"]["hostPath"]["path"], ignore_errors=True)
                self._client.delete(f"/api/v1/persistentvolumes/{name}")

    def _make(self, name: str, claim: Object) -> None:
        path = self._directory / name
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, self._owner, self._owner)
        path.chmod(0o770)
        metadata = claim["metadata"]
        document = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
            "spec": {
                "accessModes": claim["spec"]["accessModes"],
                "capacity": claim["spec"]["resources"]["requests"],
                "storageClassName": STORAGE_CLASS,
                "persistentVolumeReclaimPolicy": "Delete",
                "hostPath": {"path": str(path), "type": "Directory"},
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        self._client.post("/api/v1/persistentvolumes", json=document).raise_for_status()

    def _list(self, plural: str) -> list[Object]:
        answer = self._client.get(f"/api/v1/{plural}")
        answer.raise_for_status()
        items: list[Object] = answer.json()["items"]
        return items
