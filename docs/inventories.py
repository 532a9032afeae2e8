"""Inventories of other projects for intersphinx, made from docs/inventories.toml without a network.

    python docs/inventories.py      # with a network: compare them with those of the projects

A build needs the places of some dozen names. Fetching the projects' whole inventories for these
would make every build depend on seven servers, and committing what was fetched would be megabytes
that nobody reads.
"""

from __future__ import annotations

import io
import tomllib
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.util.inventory import InventoryFile

NAMES = Path(__file__).with_name("inventories.toml")
ROLES = ("function", "class")

Project = dict[str, Any]


def projects() -> dict[str, Project]:
    """The table, by the names that intersphinx knows the projects by."""
    return tomllib.loads(NAMES.read_text(encoding="utf-8"))


def entries(project: Project) -> Iterator[tuple[str, str, str]]:
    """Name, role and place of each name of a project."""
    place = f"{project['page']}#{project['anchor']}"
    for role in ROLES:
        for name in project.get(role, ()):
            yield name, role, place.format(name=name)
    for name, page in project.get("pages", {}).items():
        role = "class" if name.rpartition(".")[2][0].isupper() else "module"
        yield name, role, f"{page}#{'module-' * (role == 'module')}{name}"


def inventory(title: str, project: Project) -> bytes:
    """A file as Sphinx writes it: four lines, then one compressed line for each name."""
    head = f"# Sphinx inventory version 2\n# Project: {title}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = [f"{name} py:{role} 1 {place} -\n" for name, role, place in entries(project)]
    return head.encode() + zlib.compress("".join(lines).encode())


def mapping(folder: Path) -> dict[str, tuple[str, str]]:
    """Write the inventories into a folder, and name them as ``intersphinx_mapping`` wants it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for title, project in projects().items():
        path = folder / f"{title}.inv"
        path.write_bytes(inventory(title, project))
        found[title] = (project["url"], str(path))
    return found


def differences(project: Project, url: str) -> list[str]:
    """What the project's own inventory, at ``url``, says otherwise."""
    with urllib.request.urlopen(f"{url}objects.inv") as answer:
        theirs = InventoryFile.load(
            io.BytesIO(answer.read()), url, lambda base, place: base + place
        )
    wrong = []
    for name, role, place in entries(project):
        item = theirs.get(f"py:{role}", {}).get(name)
        if item is None:
            wrong.append(f"no {role} {name}")
        elif item.uri != url + place:
            wrong.append(f"{role} {name} is at {item.uri}, not {url + place}")
    return wrong


def main() -> None:
    """Compare all with what the projects say today; an error if any differs."""
    wrong = []
    for title, project in projects().items():
        try:
            wrong += [f"{title}: {line}" for line in differences(project, project["url"])]
        except OSError as error:
            wrong.append(f"{title}: {project['url']}objects.inv cannot be read: {error}")
    print("\n".join(wrong) or "all names are where docs/inventories.toml says")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
