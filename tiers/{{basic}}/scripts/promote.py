"""Take this repo to a higher tier of its template, or to a newer version, with all its edits.

The merge is made in a clone. What it would change is shown, and reaches this repo only after a yes,
as one staged change. No file that was edited here is deleted; conflicts are listed, and end with 1.
What is to be done then, such as carrying the data over, comes with the tier: see `scripts/next/`.

    make promote TIER=...   the tier moves, the template's version stays
    make update             the version moves, the tier stays

YES=1 asks nothing. TEMPLATE=... is the template's address, if none or another one is recorded.
"""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from copier import VcsRef, run_copy, run_update
from copier.errors import CopierError

ANSWERS = ".copier-answers.yml"
LOCK = ".lock"  # how a file ends that is never merged: the tier's own, made anew
HOSTS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/", "git+": ""}
WHOLE_FILE = 1_000_000  # lines of context: an edit is merged where it belongs, or is a conflict
# In the clone nobody commits in their name, and no hook of theirs has a say.
ASIDE = (
    *("user.name=x", "user.email=x", "commit.gpgsign=0", f"core.hooksPath={os.devnull}"),
    *("color.ui=0", "diff.noprefix=0", "diff.mnemonicPrefix=0"),  # or a patch would be none
)


class RefusalError(Exception):
    """Why nothing was done, in one line."""


def git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """What git says in a folder; what it complains of is a refusal."""
    done = subprocess.run(
        ["git", *(word for setting in ASIDE for word in ("-c", setting)), *arguments],
        cwd=folder,
        input=stdin.encode("utf-8", "surrogateescape"),  # a file may hold any bytes
        capture_output=True,
    )
    said = (done.stderr if done.returncode else done.stdout).decode("utf-8", "surrogateescape")
    if done.returncode:
        raise RefusalError(f"git {arguments[0]}: {' '.join(said.split()) or done.returncode}")
    return said


# --- this repo, and its template ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Repo:
    """This repo as it is committed."""

    top: Path  # of the git repo
    below: str  # this folder in it; "" if it is the top
    head: str
    version: str  # of the template
    answers: dict[str, Any]


def this_repo() -> Repo:
    """The repo in the folder where the command is run.

    Raises:
        RefusalError: there is nothing to start a merge from.
    """
    folder = Path.cwd()
    if not (folder / ANSWERS).is_file():
        raise RefusalError(f"there is no {ANSWERS} here, which says what this repo was made from")
    try:
        top, below = git(folder, "rev-parse", "--show-toplevel", "--show-prefix").split("\n")[:2]
        head = git(folder, "rev-parse", "--verify", "HEAD").strip()
    except RefusalError:
        begin = "git init, git add ., git commit"
        raise RefusalError(f"a merge starts from a commit, and there is none: {begin}") from None
    if git(folder, "status", "--porcelain", "--untracked-files=normal"):
        raise RefusalError("there are uncommitted changes: commit or stash them (see git status)")
    answers = yaml.safe_load((folder / ANSWERS).read_text("utf-8"))
    if "_commit" not in answers:
        raise RefusalError(f"{ANSWERS} names no version: the template was not under git then")
    version = str(answers["_commit"])
    return Repo(top=Path(top), below=below, head=head, version=version, answers=answers)


def is_address(text: str) -> bool:
    """Whether it is a URL, host:path or an absolute path, and so the same from everywhere."""
    return ":" in text.split("/")[0] or text.startswith("~/") or Path(text).is_absolute()


def address_of_template(recorded: str) -> str:
    """Where the template is: as TEMPLATE says, or as recorded, or as a person says."""
    given = os.environ.get("TEMPLATE", "")
    if not given and is_address(recorded):
        return recorded
    if not given:
        lacking = f"{ANSWERS} has '{recorded}' for the template, which leads nowhere from here"
        if not sys.stdin.isatty():
            raise RefusalError(f"{lacking}: give its address with TEMPLATE=...")
        given = input(f"{lacking}. Its address: ").strip()
        if not given:
            raise RefusalError("nothing can be done without the template")
    return given if is_address(given) else str(Path(given).resolve())


def fetch(address: str, version: str, folder: Path) -> None:
    """Clone the template, so that all the rest needs no network.

    Raises:
        RefusalError: it cannot be reached, or has not got the version.
    """
    url = os.path.expanduser(address)
    for short, long in HOSTS.items():
        url = re.sub(f"^{re.escape(short)}", long, url)
    try:
        git(folder.parent, "clone", "--quiet", "--", url, folder.name)
    except RefusalError as error:
        raise RefusalError(f"the template cannot be reached at {address} ({error})") from None
    try:
        # A branch keeps the commit in clones of this clone, whichever branch it was on.
        git(folder, "branch", "--quiet", "version-of-this-repo", version)
    except RefusalError:
        lacking = f"the template at {address} has no version '{version}'"
        raise RefusalError(f"{lacking}, which {ANSWERS} names") from None


def refuse_unless_higher(template: Path, version: str, old: str, new: str) -> None:
    """See that a tier is above another, in the order in which the template offers them."""
    questions = yaml.safe_load(git(template, "show", f"{version}:copier.yml"))
    tiers = list(questions["tier"]["choices"])
    order = f"the tiers of version {version} are {' < '.join(tiers)}"
    if new not in tiers:
        raise RefusalError(f"there is no tier '{new}': {order}")
    if new == old:
        raise RefusalError(f"this repo is {old} already: {order}")
    if tiers.index(new) < tiers.index(old):
        why = "the code and the data here need what a lower tier does not have"
        raise RefusalError(f"there is no way down from {old} to {new}, since {why}: {order}")


# --- the merge ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What a clone of this repo has become."""

    folder: Path
    base: str  # this repo's commit
    edited: set[str]  # files that are not as the template made them
    locks: set[str]  # of those, what is locked anew
    kept: list[str]  # of those, what the template has no longer
    unmerged: list[str]  # entries of git's index: mode, blob, stage, and a file with conflicts

    @property
    def conflicts(self) -> list[str]:
        """The files that a person has to look at."""
        return sorted({entry.split("\t")[1] for entry in self.unmerged})

    def diff(self, *options: str) -> str:
        """What is different from this repo."""
        return git(self.folder, "diff", "--cached", "--no-renames", "--no-ext-diff", *options)

    def names(self, kind: str) -> list[str]:
        """The files that were added (A), modified (M) or deleted (D)."""
        only = ("--name-only", "-z", "--relative", f"--diff-filter={kind}")
        return self.diff(*only, self.base).split("\0")[:-1]


def merge(repo: Repo, template: Path, address: str, tier: str | None, scratch: Path) -> Merge:
    """Merge a clone of this repo with a tier, or with the newest version, of the template."""
    plain, folder = scratch / "plain", scratch / "clone" / repo.below
    git(scratch, "clone", "--quiet", str(repo.top), "clone")
    git(folder, "checkout", "--quiet", "--detach", repo.head)
    answers = {name: answer for name, answer in repo.answers.items() if name[0] != "_"}
    run_copy(str(template), plain, answers, vcs_ref=repo.version, defaults=True, quiet=True)
    edited = {
        name
        for name in git(folder, "ls-files", "-z").split("\0")[:-1]
        if name != ANSWERS and not same(plain / name, folder / name)
    }
    locks = {name for name in edited if name.endswith(LOCK) and (plain / name).is_file()}
    for lock in locks:
        (folder / lock).write_bytes((plain / lock).read_bytes())
    record(template, folder)
    git(folder, "commit", "--quiet", "--all", "--allow-empty", "--message", "Start of the merge")
    run_update(
        folder,
        {"tier": tier} if tier else {},
        vcs_ref=VcsRef.CURRENT if tier else None,
        context_lines=WHOLE_FILE,
        defaults=True,
        overwrite=True,
        quiet=True,
    )
    record(address, folder)
    unmerged = git(folder, "ls-files", "--unmerged", "--full-name", "-z").split("\0")[:-1]
    git(folder, "add", "--all", "--force", ".")
    merged = Merge(
        folder=folder, base=repo.head, edited=edited, locks=locks, kept=[], unmerged=unmerged
    )
    merged.kept.extend(name for name in merged.names("D") if name in edited)
    if merged.kept:
        git(folder, "checkout", repo.head, "--", *merged.kept)
    return merged


def same(one: Path, other: Path) -> bool:
    """Whether two files are there, and equal."""
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def record(address: Path | str, folder: Path) -> None:
    """Note in a repo where its template is."""
    noted = yaml.safe_dump({"_src_path": str(address)}, allow_unicode=True, width=sys.maxsize)
    text = (folder / ANSWERS).read_text("utf-8")
    text = re.sub(r"^_src_path:.*\n(?: .*\n)*", lambda _: noted, text, flags=re.MULTILINE)
    (folder / ANSWERS).write_text(text, "utf-8")


# --- what a person sees -------------------------------------------------------------------------


def preview(merged: Merge) -> None:
    """Print what would change."""
    arriving, changing, going = (merged.names(kind) for kind in "AMD")
    show("These files arrive", arriving)
    show("These go, which nobody has edited here", going)
    show("These change, as follows", changing)
    no_lock = f":(exclude,glob)**/*{LOCK}"
    print(merged.diff("--diff-filter=M", "--relative", merged.base, "--", ".", no_lock))
    show("Of those, these were edited here", [name for name in changing if name in merged.edited])
    show("These were edited here, and stay, though the template has them no longer", merged.kept)
    before, after = (declared(merged.folder, commit) for commit in (merged.base, ""))
    for title, names in after.items():
        show(title, sorted(names - before[title]))
    show("CONFLICTS, which will be marked in", merged.conflicts)


def show(title: str, names: list[str]) -> None:
    """Print a list, if there is anything in it."""
    if names:
        print(f"{title}:", *names, sep="\n  ", end="\n\n")


def declared(folder: Path, commit: str) -> dict[str, set[str]]:
    """The dependencies and settings of a commit, or of what is staged; none if they are no TOML."""

    def text(name: str) -> str:
        return git(folder, "show", f"{commit}:./{name}") if (folder / name).is_file() else ""

    try:
        project = tomllib.loads(text("pyproject.toml"))
    except tomllib.TOMLDecodeError:  # it has conflicts
        project = {}
    return {
        "New dependencies": {*project.get("project", {}).get("dependencies", ())},
        "New dependencies for development": {
            str(one) for one in project.get("dependency-groups", {}).get("dev", ())
        },
        "New settings": {*re.findall(r"^#?([A-Z]\w*)=", text(".env.example"), re.MULTILINE)},
    }


def steps(merged: Merge, tier: str | None) -> list[str]:
    """What to type next: what came with the tiers that arrive, or goes with each update."""
    kind = "promote" if tier else "update"
    told = sorted((merged.folder / "scripts/next").glob(f"{kind}-*.sh"))
    if tier:
        arriving = merged.names("A")
        told = [path for path in told if path.relative_to(merged.folder).as_posix() in arriving]
    # A lock that was changed here holds dependencies that the tier's lock lacks.
    lock = ["make lock  # your own dependencies with the tier's"]
    of_tiers = [line for path in told for line in path.read_text("utf-8").splitlines()]
    last = ["make test", f'git add --all && git commit --message "{kind.title()}"']
    return [*dict.fromkeys([*(lock if merged.locks else []), "make setup", *of_tiers, *last])]


def agreed() -> bool:
    """Whether a person says to go ahead."""
    if not sys.stdin.isatty():
        raise RefusalError("nothing was changed: nobody is here to say yes; YES=1 says it")
    return input("Go ahead? [y/N] ").strip().lower() in ("y", "yes")


def apply(repo: Repo, merged: Merge) -> None:
    """Bring the change into this repo, staged; conflicts are to git as those of its own merges."""
    patch = merged.diff("--binary", "--full-index", repo.head)
    git(repo.top, "apply", "--index", "--whitespace=nowarn", "-", stdin=patch)
    for entry in merged.unmerged:
        blob = git(merged.folder, "cat-file", "blob", entry.split()[1])
        git(repo.top, "hash-object", "-w", "--stdin", stdin=blob)
    entries = [f"0 {'0' * len(repo.head)}\t{name}" for name in merged.conflicts] + merged.unmerged
    git(repo.top, "update-index", "-z", "--index-info", stdin="".join(f"{e}\0" for e in entries))


def main(tier: str | None = None) -> int:
    """Promote to a tier, or update; returns the exit code."""
    repo = this_repo()
    address = address_of_template(str(repo.answers.get("_src_path", "")))
    with TemporaryDirectory(prefix="promote-") as scratch:
        template = Path(scratch, "template")
        fetch(address, repo.version, template)
        if tier is not None:
            refuse_unless_higher(template, repo.version, repo.answers["tier"], tier)
        try:
            merged = merge(repo, template, address, tier, Path(scratch))
        except (CopierError, OSError, ValueError) as error:
            raise RefusalError(f"nothing was changed: {' '.join(str(error).split())}") from error
        now = yaml.safe_load((merged.folder / ANSWERS).read_text("utf-8"))
        if tier is None and now["_commit"] == repo.version:
            print(f"This repo has the newest version of its template, {repo.version}.")
            return 0
        print(f"{repo.answers['tier']} {repo.version} -> {now['tier']} {now['_commit']}\n")
        preview(merged)
        todo = [f"{number}. {step}" for number, step in enumerate(steps(merged, tier), start=1)]
        if os.environ.get("YES") != "1":
            show("What to type then", todo)
            if not agreed():
                print("Nothing was changed.")
                return 0
        apply(repo, merged)
    if merged.conflicts:
        show("Edit these first, where they have <<<<<<<, then git add them", merged.conflicts)
    show("It is done, and staged (git reset --hard undoes it). What to type next", todo)
    return 1 if merged.conflicts else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a diff may hold any bytes
    try:
        sys.exit(main(*sys.argv[1:2]))
    except RefusalError as error:
        sys.exit(f"error: {error}")
    except (EOFError, KeyboardInterrupt):
        sys.exit("error: interrupted")
