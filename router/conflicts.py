"""Which files cannot answer beside each other, in Next.js' words."""

from collections.abc import Sequence
from typing import Protocol

from router.paths import Segment

Place = tuple[str | int, ...]  # a node of the tree: texts, and ranks where a parameter stands


class File(Protocol):
    """A file that is to answer: the path of its folder, and its name in messages."""

    @property
    def segments(self) -> tuple[Segment, ...]: ...

    @property
    def shown(self) -> str: ...


def conflicts(files: Sequence[File]) -> list[str]:
    """Return what is wrong between files: two on one path, two names for one parameter, and catch-alls that clash."""
    problems: list[str] = []
    named: dict[Place, tuple[str, File]] = {}  # the parameter's name at each place of the tree, and where it stands
    answering: dict[Place, File] = {}

    def report(problem: str, *involved: File) -> None:
        fix = "Rename or remove one of them" if len(involved) > 1 else "Rename one of the folders"
        problems.append(f"{problem}: {' and '.join(file.shown for file in involved)}. {fix}.")

    for file in files:
        place: Place = ()
        names: set[str] = set()
        clash = False
        for rank, text in file.segments:
            if rank == 0:
                place += (text,)
                continue
            if text in names:
                report(f'You cannot have the same slug name "{text}" repeat within a single dynamic path', file)
            names.add(text)
            before, first = named.setdefault((*place, rank), (text, file))
            if before != text:
                clash = True
                different = f"('{before}' !== '{text}')"
                report(f"You cannot use different slug names for the same dynamic path {different}", first, file)
            if rank == 3 and (required := named.get((*place, 2))):
                both = "You cannot use both a required and optional catch-all route at the same level"
                report(both, required[1], file)
            if rank == 3 and (plain := answering.get(place)):
                same = "You cannot define a route with the same specificity as an optional catch-all route"
                report(same, plain, file)
            place += (rank,)
        other = answering.setdefault(place, file)
        if other is not file and not clash:
            path = "/" + "/".join(map(str, file.segments))
            report(f"Conflicting routes at {path}: only one file can answer there", other, file)
    return problems
