"""What keeps a pod from running, as one table: the reasons of kubelet and scheduler, ours, and a sentence for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cai_operator import conditions
from cai_operator.observing.fields import Fields
from cai_operator.observing.objects import Raw, condition, dig, items, mapping, name_of, text

LONGEST_CAUSE = 400
NOT_OURS = "exists already and is not of this pipeline"
"""What is said of an object that has the name of a child, and is left alone."""


@dataclass(frozen=True)
class Trouble:
    """A problem with its reason; `lacks_room` where the same pod would run if others gave up what they hold."""

    reason: str
    message: str
    lacks_room: bool = False


def trouble_of(pod: Raw, fields: Fields) -> Trouble | None:
    """What keeps this pod from starting, None where nothing is known to."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return _unschedulable(pod, fields, text(scheduled, "message"))
    if scheduled.get("status") == "False" and scheduled.get("reason") == "SchedulingGated":
        gates = ", ".join(text(gate, "name") for gate in items(pod, "spec", "schedulingGates"))
        return Trouble(conditions.QUEUED, f"pod {name_of(pod)} waits to be admitted ({gates or 'it has a gate'})")
    for status in [*items(pod, "status", "initContainerStatuses"), *items(pod, "status", "containerStatuses")]:
        waiting = mapping(status, "state", "waiting")
        sentence = _WAITING.get(text(waiting, "reason"))
        if sentence is not None:
            return sentence(pod, fields, text(waiting, "message"), _image(pod, status))
    return None


def refused(kind: str, name: str, message: str, fields: Fields | None = None) -> Trouble | None:
    """What a refusal of the API server means, or a warning that it refused pods; None where nobody need know."""
    if "because it is being terminated" in message or 'serviceaccount "default" not found' in message:
        return None  # the namespace is going, or has only just been made
    if NOT_OURS in message:
        return Trouble(conditions.REFUSED, f"{message}: delete or rename it, or give the pipeline another name")
    cause = _cause(message)
    if "exceeded quota" in message:
        lower = f"or lower {fields.size}" if fields is not None and fields.stage else "or ask for less"
        return Trouble(
            conditions.QUOTA_EXCEEDED,
            f"the namespace's ResourceQuota has no room for {kind} {name}: {cause}; free some of it, raise it {lower}",
        )
    if "violates PodSecurity" in message:
        return Trouble(
            conditions.REFUSED,
            f"the namespace's Pod Security level refuses the {_its_pods(kind)} {name}: {cause}; "
            "change the template or the namespace's level",
        )
    return Trouble(conditions.REFUSED, f"the API server refuses {kind} {name}: {cause}")


def _its_pods(kind: str) -> str:
    """The pods of what was refused, which may be the pods themselves."""
    return kind if kind.startswith("pods of") else f"pods of {kind}"


def mount_trouble(name: str, warning: str) -> Trouble | None:
    """What a Warning about volumes means for pods that do not start, None where it is about something else."""
    if not re.search(r"FailedMount|MountVolume|FailedAttachVolume|AttachVolume|unmounted volumes", warning):
        return None
    if found := _missing_object("configmap", warning):
        return Trouble(conditions.CONFIG_MAP_MISSING, f"{name} waits for ConfigMap {found}, which does not exist")
    if found := _missing_object("secret", warning):
        return Trouble(conditions.SECRET_MISSING, f"{name} waits for Secret {found}, which does not exist")
    return Trouble(conditions.VOLUME_NOT_MOUNTED, f"a volume of {name} cannot be mounted: {_cause(warning)}")


def _unschedulable(pod: Raw, fields: Fields, message: str) -> Trouble:
    # what follows is about preemption, which is no concern of the user's
    cause = _cause(re.split(r"\s*(?:preemption:|no new claims to deallocate)", message)[0])
    if found := re.search(r'persistentvolumeclaim "([^"]+)" (not found|is being deleted)', message):
        claim, what = found.groups()
        return Trouble(
            conditions.VOLUME_MISSING,
            f"PersistentVolumeClaim {claim} {'does not exist' if what == 'not found' else what}: "
            "create it or correct spec.storage.claimName",
        )
    if "unbound" in message and "PersistentVolumeClaim" in message:
        return Trouble(
            conditions.VOLUME_UNBOUND,
            "the pipeline's PersistentVolumeClaim is bound to no volume yet: see kubectl describe pvc "
            f"-n {fields.namespace}; check spec.storage.storageClassName and size",
        )
    lacks_room = "Insufficient" in message or "Too many pods" in message
    advice = f"wait for room, add nodes or lower {fields.size}"
    if not lacks_room:
        advice = (
            f"check nodeSelector, tolerations and affinity in spec.template and spec.stages.{fields.stage}.template"
        )
    return Trouble(conditions.UNSCHEDULABLE, f"no node takes pod {name_of(pod)}: {cause}; {advice}", lacks_room)


def _image_trouble(_pod: Raw, fields: Fields, message: str, image: str) -> Trouble:
    # ErrImagePull and ImagePullBackOff alternate while the kubelet tries: both must give the same sentence
    cause = re.sub(r'^Back-off pulling image "[^"]*"(: ErrImagePull)?:?\s*', "", message)
    return Trouble(
        conditions.IMAGE_PULL_FAILED,
        f"image {image} cannot be pulled{f': {_cause(cause)}' if cause else ''}; correct {fields.image}, or "
        "imagePullSecrets in spec.template; it is tried again by itself",
    )


def _image_not_there(_pod: Raw, fields: Fields, _message: str, image: str) -> Trouble:
    return Trouble(
        conditions.IMAGE_PULL_FAILED,
        f"image {image} is not on the node and imagePullPolicy is Never: load it there, correct {fields.image}, "
        "or change imagePullPolicy in spec.template",
    )


def _image_name(_pod: Raw, fields: Fields, _message: str, image: str) -> Trouble:
    return Trouble(conditions.IMAGE_PULL_FAILED, f"{image} is no valid image name: correct {fields.image}")


def _config(pod: Raw, fields: Fields, message: str, _image: str) -> Trouble:
    name = name_of(pod)
    if found := _missing_object("secret", message):
        return Trouble(
            conditions.SECRET_MISSING,
            f"Secret {found} does not exist in namespace {fields.namespace}: create it; the pod goes on by itself",
        )
    if key := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:[^/\s]+/)?(\S+)", message):
        what, kind, owner = key.groups()
        reason = conditions.SECRET_MISSING if kind == "Secret" else conditions.CONFIG_MAP_MISSING
        return Trouble(reason, f"{kind} {owner} in namespace {fields.namespace} has no key {what}: add it")
    if found := _missing_object("configmap", message):
        return Trouble(
            conditions.CONFIG_MAP_MISSING, f"ConfigMap {found} does not exist in namespace {fields.namespace}"
        )
    return Trouble(conditions.CONTAINER_FAILED, f"pod {name} cannot be set up: {_cause(message)}")


def _container(pod: Raw, _fields: Fields, message: str, _image: str) -> Trouble:
    return Trouble(
        conditions.CONTAINER_FAILED, f"the container of pod {name_of(pod)} cannot be started: {_cause(message)}"
    )


_WAITING: Mapping[str, Callable[[Raw, Fields, str, str], Trouble]] = {
    "ErrImagePull": _image_trouble,
    "ImagePullBackOff": _image_trouble,
    "RegistryUnavailable": _image_trouble,
    "ImageInspectError": _image_trouble,
    "SignatureValidationFailed": _image_trouble,
    "ErrImageNeverPull": _image_not_there,
    "InvalidImageName": _image_name,
    "CreateContainerConfigError": _config,
    "CreateContainerError": _container,
    "RunContainerError": _container,
    "PostStartHookError": _container,
}


def _missing_object(kind: str, message: str) -> str | None:
    found = re.search(rf'{kind} "([^"]+)" not found', message)
    return found.group(1) if found else None


def _image(pod: Raw, status: Raw) -> str:
    for container in [*items(pod, "spec", "initContainers"), *items(pod, "spec", "containers")]:
        if container.get("name") == status.get("name"):
            return text(container, "image")
    return str(dig(status, "image") or "")


def _cause(message: str) -> str:
    cause = " ".join(message.split()).rstrip(".;")
    return cause if len(cause) <= LONGEST_CAUSE else cause[: LONGEST_CAUSE - 1] + "…"
