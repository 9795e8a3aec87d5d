"""The manifests as kubectl builds them, and the tools that look at them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import REPO

Document = dict[str, Any]

KUBERNETES = REPO / "deploy/kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
TOOLS = Path(sys.prefix) / "kubernetes/bin"
CONTROLLERS = ("CronJob", "Deployment", "Job", "Pod")


def tool(name: str) -> str:
    """Where a tool is; without it the test is skipped. `kubectl` may be the machine's own."""
    found = shutil.which(name, path=TOOLS) or (name == "kubectl" and shutil.which(name))
    if not found:
        pytest.skip(f"there is no {name}: make manifests")
    return found


@cache
def text_of(overlay: str) -> str:
    """What kubectl makes of an overlay."""
    command = [tool("kubectl"), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kubectl warns"
    return done.stdout


def built(overlay: str, *kinds: str) -> list[Document]:
    """The documents of an overlay, of these kinds alone if any are named."""
    found = list(yaml.safe_load_all(text_of(overlay)))
    return [document for document in found if not kinds or document["kind"] in kinds]


def template_of(document: Document) -> Document:
    """The pod that a controller makes."""
    if document["kind"] == "Pod":
        return document
    spec = document["spec"]
    template: Document = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]
    return template


def spine_pods(overlay: str) -> Iterator[tuple[str, Document]]:
    """The name of each controller of this repo's image, and its pod."""
    for document in built(overlay, *CONTROLLERS):
        pod = template_of(document)
        if pod["spec"]["containers"][0]["name"] == "spine":
            yield document["metadata"]["name"], pod


def containers(pod: Document) -> list[Document]:
    """Those that run, and those that run before."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def command_of(pod: Document) -> list[str]:
    """What a pod runs."""
    command: list[str] = pod["spec"]["containers"][0]["command"]
    return command


def setting_of(overlay: str, pod: Document, name: str) -> str:
    """What a pod's process is told: its own, else what all are."""
    (settings,) = built(overlay, "ConfigMap")
    own = {given["name"]: given["value"] for given in pod["spec"]["containers"][0].get("env", [])}
    value: str = own.get(name, settings["data"][name])
    return value


def all_ports(pod: Document) -> list[Document]:
    """The ports that a pod names."""
    return [port for one in containers(pod) for port in one.get("ports", [])]


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector fits some labels."""
    wanted = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in among)
    return all(labels.get(key) == value for key, value in wanted) and all(
        labels.get(one["key"]) in one["values"] for one in among
    )


def milliseconds(quantity: str) -> int:
    """A quantity of CPU, in thousandths of one."""
    return int(quantity[:-1]) if quantity.endswith("m") else int(quantity) * 1000


def mebibytes(quantity: str) -> int:
    """A quantity of memory."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]
