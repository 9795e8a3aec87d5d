"""Does each lock hold what pyproject.toml asks for? Needs no network, unlike `make lock`.

That what is locked needs nothing which is not is for pip to say: it installs by hashes alone.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path("pyproject.toml")
# name==version, perhaps a marker, then the hashes and who asks for it, each on a line of its own.
LOCKED = re.compile(
    r"^(?P<pin>[\w.-]+==[^\n\\]+)(?P<rest>(?:\n? *\\)?(?:\n +[^\n]*)*)", re.MULTILINE
)
ASKED = re.compile(r"pyproject\.toml")


def main() -> int:
    """Print a line for each complaint; 1 if there is any."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))
    deployed = [Requirement(text) for text in project["project"]["dependencies"]]
    more = [Requirement(text) for text in project["dependency-groups"]["dev"]]
    complaints = [
        *complaints_of(Path("requirements.lock"), deployed),
        *complaints_of(Path("requirements-dev.lock"), [*deployed, *more]),
        *disagreements(),
    ]
    extras_of = project["project"]["optional-dependencies"]
    for lock in sorted(Path("backends").glob("*.lock")):
        extra = map(Requirement, extras_of[lock.stem])
        complaints += complaints_of(lock, [*deployed, *extra])
    for complaint in complaints:
        print(complaint)
    if complaints:
        print("Lock the dependencies anew: make lock")
    return 1 if complaints else 0


def complaints_of(lock: Path, asked: list[Requirement]) -> list[str]:
    """Where a lock is not one of these requirements."""
    text = lock.read_text("utf-8")
    found = pins(text)
    complaints = [f"{lock}: names the address of an index" for _ in re.findall("index-url", text)]
    for wanted in [*asked, *(extra for one in asked for extra in extras(one))]:
        versions = found.get(canonicalize_name(wanted.name), [])
        if not versions:
            complaints.append(f"{lock}: lacks {wanted}, which {PROJECT} asks for")
        complaints += [
            f"{lock}: has {wanted.name} {version}, but {PROJECT} asks for {wanted}"
            for version in versions
            if not wanted.specifier.contains(version, prereleases=True)
        ]
    names = {canonicalize_name(wanted.name) for wanted in asked}
    for entry in LOCKED.finditer(text):
        name = canonicalize_name(entry["pin"].partition("==")[0])
        if "--hash=sha256:" not in entry["rest"]:
            complaints.append(f"{lock}: {name} has no hash")
        if ASKED.search(entry["rest"]) and name not in names:
            complaints.append(f"{lock}: has {name}, which {PROJECT} does not ask for any more")
    return complaints


def extras(requirement: Requirement) -> list[Requirement]:
    """What the extras of a requirement ask for here, and theirs, by what is installed of it."""
    try:
        needed = metadata.requires(requirement.name) if requirement.extras else None
    except metadata.PackageNotFoundError:
        return []  # it was never locked, which is complained of
    found = [
        wanted
        for wanted in map(Requirement, needed or [])
        if wanted.marker
        and not wanted.marker.evaluate({"extra": ""})
        and any(wanted.marker.evaluate({"extra": extra}) for extra in requirement.extras)
    ]
    return [*found, *(further for wanted in found for further in extras(wanted))]


def disagreements() -> list[str]:
    """What is tested in another version than it is deployed in."""
    deployed, tested = (
        pins(Path(lock).read_text("utf-8"))
        for lock in ("requirements.lock", "requirements-dev.lock")
    )
    return [
        f"requirements-dev.lock: has not the {name} of requirements.lock, {', '.join(versions)}"
        for name, versions in deployed.items()
        if tested.get(name) != versions
    ]


def pins(text: str) -> dict[str, list[str]]:
    """The versions of each name in a lock: more than one if they differ by platform."""
    found: dict[str, list[str]] = {}
    for entry in LOCKED.finditer(text):
        name, _, version = entry["pin"].partition(";")[0].partition("==")
        found.setdefault(canonicalize_name(name), []).append(version.strip())
    return found


if __name__ == "__main__":
    sys.exit(main())
