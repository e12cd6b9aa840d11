"""What the container is made of: locked by hashes, listed, and built to the same bytes each time."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
LOCKS = ("requirements.lock", "build.lock")
PINNED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")


def locked(name: str) -> dict[str, str]:
    """Return the versions in a lock, by the normalised names of distributions."""
    lines = (DEPLOY / name).read_text().splitlines()
    found = [PINNED.match(line) for line in lines if not line.startswith(" ")]
    return {_normal(one[1]): one[2] for one in found if one}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_actions_of_the_release_are_pinned_to_commits() -> None:
    """A tag can be moved to another commit; the comment says which tag it was."""
    uses = re.findall(r"uses: (.*)", (ROOT / ".github/workflows/release.yml").read_text())
    assert uses
    assert [one for one in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\b.*", one)] == []


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_a_hash_for_every_version(name: str) -> None:
    """So nothing is installed that was not there when it was written; and it names no place to get it from."""
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if line and not line.startswith("#")]
    entries = re.split(r"\n(?=\S)", "\n".join(lines))
    assert len(entries) > 20
    for entry in entries:
        first, *hashes = entry.replace("\\\n", "\n").split("\n")
        assert PINNED.match(first), first
        assert hashes
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", one) for one in hashes), first


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.lock", [*PROJECT["project"]["dependencies"], *EXTRAS["redis"], *EXTRAS["encryption"]]),
        (
            "build.lock",
            [
                *PROJECT["build-system"]["requires"],
                *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["dependencies"],
                *PROJECT["project"]["dependencies"],
                *EXTRAS["redis"],
                *EXTRAS["otel"],
            ],
        ),
    ],
)
def test_lock_fits_what_the_project_asks_for(name: str, wanted: list[str]) -> None:
    """A dependency that was added or raised is locked anew, by deploy/lock.sh."""
    versions = locked(name)
    for requirement in map(Requirement, wanted):
        version = versions.get(_normal(requirement.name))
        assert version, f"deploy/{name} lacks {requirement.name}; deploy/lock.sh writes it anew"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, but {version} is locked"


def test_bill_of_materials_lists_what_is_locked() -> None:
    """CycloneDX: each distribution with its version, its licence and what it depends on."""
    bill = json.loads((DEPLOY / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["version"] == PROJECT["project"]["version"]
    components = {_normal(one["name"]): one["version"] for one in bill["components"]}
    assert components == locked("requirements.lock")
    assert [one["name"] for one in bill["components"] if not one.get("licenses")] == []
    references = {one["bom-ref"] for one in (*bill["components"], bill["metadata"]["component"])}
    assert {one["ref"] for one in bill["dependencies"]} == references
    assert all("externalReferences" not in one for one in bill["components"])


def test_container_is_made_of_what_is_locked() -> None:
    """Each installation is by a lock, or of the wheel that was built, and asks nobody else."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?install[^&\n]*", text)
    assert len(installs) == 3
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)
    assert "--no-build-isolation" in text


@pytest.mark.skipif("TEST_COMPILED" in os.environ, reason="its `proxy` is an installed one")
@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_two_builds_are_the_same_bytes(tmp_path: Path, target: str) -> None:
    """In folders with other names, times and permissions: so anybody can see that a wheel is of these sources."""
    built = []
    for number in range(2):
        folder = tmp_path / f"copy{number}" / ("x" * number or "y")
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        for part in ("proxy", "config", "deploy", "docs"):
            shutil.copytree(ROOT / part, folder / part, ignore=ignored, copy_function=shutil.copyfile)
        for part in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"):
            shutil.copyfile(ROOT / part, folder / part)
        for path in folder.rglob("*"):
            os.utime(path, (1_700_000_000 + number * 1000, 1_700_000_000 + number * 1000))
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder / "dist")]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        (file,) = (folder / "dist").iterdir()
        built.append((file.name, file.read_bytes()))
    assert built[0] == built[1]
