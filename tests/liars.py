"""A store that lies: what it can tell in place of what it was given, as functions on all its objects.

Each lie makes of what lies in the store another state that the store can show: it has everything that was ever stored
in it, in other repositories of the same secrets too, and no key. What it says of a class of objects is changed, the
rest is told as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

__all__ = [
    "CLASSES",
    "LIES",
    "MEANINGLESS",
    "Lie",
    "Lies",
    "Objects",
    "Seen",
    "each",
    "fresh_name",
    "kind_of",
    "of_class",
    "registry",
]

#: All objects of a store by their names, in the order in which they came.
Objects = dict[str, bytes]

CLASSES: Final = ("config", "keys", "packs", "index", "snapshots", "runs", "log")
#: No pack has so many bytes, and no other object half as many; no reader may ask for them.
HUGE: Final = 66 << 20


@dataclass(frozen=True)
class Seen:
    """What the store was given in its time.

    `past` are its earlier states, the oldest first, `older` one of them and `fork` another future of that one; `other`
    is another repository of the same secrets; `forged` are objects that the service made while it was lied to before.
    """

    now: Objects
    past: list[Objects]
    older: Objects
    fork: Objects
    other: Objects
    forged: Objects


#: Gives what the store tells, by what it has seen and the class it lies about.
Lie = Callable[[Seen, str], Objects]

#: Lies by name, each with the classes that it can be about.
Lies = dict[str, tuple[Lie, tuple[str, ...]]]

LIES: Final[Lies] = {}

#: Pairs of a lie and a class that have no meaning, and why.
MEANINGLESS: Final[dict[tuple[str, str], str]] = {
    **{
        (name, "config"): "there is one config"
        for name in ("swapped", "all_alike", "copied", "renamed", "one_more_of_another_repository")
    },
    **{(name, "config"): "it is never changed" for name in ("older", "all_else_older", "deleted_is_back")},
    **{(name, "keys"): "these slots were made with the repository" for name in ("older", "deleted_is_back")},
    **{(name, kind): "the same as in the other future" for name in ("other_future",) for kind in ("config", "keys")},
}


def registry(lies: Lies) -> Callable[..., Callable[[Lie], Lie]]:
    """A decorator that adds lies about the classes it names, or about all."""

    def lie(*classes: str) -> Callable[[Lie], Lie]:
        def register(function: Lie) -> Lie:
            lies[function.__name__] = function, classes or CLASSES
            return function

        return register

    return lie


def kind_of(name: str) -> str:
    return name.partition("/")[0]


def of_class(objects: Objects, kind: str) -> Objects:
    return {name: content for name, content in objects.items() if kind_of(name) == kind}


def _without(objects: Objects, kind: str) -> Objects:
    return {name: content for name, content in objects.items() if kind_of(name) != kind}


def each(seen: Seen, kind: str, change: Callable[[bytes], bytes]) -> Objects:
    return seen.now | {name: change(content) for name, content in of_class(seen.now, kind).items()}


def fresh_name(kind: str, near: str, number: int = 0) -> str:
    """A name that an object of the class could have and none has."""
    if kind == "config":
        return "config"
    if kind == "log":
        return f"{near.rpartition('/')[0]}/{900 + number:016d}"
    if kind in ("snapshots", "runs"):
        return f"{kind}/5b4d6824-e52f-464a-bfdc-{number:012x}"
    return f"{kind}/{number:032x}"


lie = registry(LIES)


# -- bytes ----------------------------------------------------------------------------------------------------------


@lie()
def a_bit_flipped(seen: Seen, kind: str) -> Objects:
    return each(seen, kind, lambda content: _flipped(content, len(content) // 8))


@lie()
def the_last_bit_flipped(seen: Seen, kind: str) -> Objects:
    return each(seen, kind, lambda content: _flipped(content, -1))


@lie()
def cut_in_half(seen: Seen, kind: str) -> Objects:
    return each(seen, kind, lambda content: content[: len(content) // 2])


@lie()
def emptied(seen: Seen, kind: str) -> Objects:
    return each(seen, kind, lambda _: b"")


@lie()
def longer(seen: Seen, kind: str) -> Objects:
    return each(seen, kind, lambda content: content + b"\0" * 16)


@lie()
def huge(seen: Seen, kind: str) -> Objects:
    """One object is far larger than any may be."""
    name = next(iter(of_class(seen.now, kind)))
    return seen.now | {name: seen.now[name].ljust(HUGE if kind == "packs" else HUGE // 2, b"\0")}


@lie()
def noise(seen: Seen, kind: str) -> Objects:
    return each(seen, kind, lambda content: blake3(content).digest(len(content)))


@lie()
def noise_of_right_names(seen: Seen, kind: str) -> Objects:
    """Beside what is there: objects of noise, one of them of the last name that can be."""
    near = next(iter(of_class(seen.now, kind)))
    names = [fresh_name(kind, near, number) for number in range(3)]
    if kind == "log":
        names += [f"{near.rpartition('/')[0]}/{'9' * 16}", f"log/{'ab' * 16}/{'9' * 16}"]
    return seen.now | dict.fromkeys(names, blake3(b"noise").digest(400))


def _flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0x10
    return bytes(changed)


# -- places ---------------------------------------------------------------------------------------------------------


@lie()
def swapped(seen: Seen, kind: str) -> Objects:
    """Each object has the content of the next one of its class."""
    own = of_class(seen.now, kind)
    contents = list(own.values())
    return seen.now | dict(zip(own, contents[1:] + contents[:1], strict=True))


@lie()
def all_alike(seen: Seen, kind: str) -> Objects:
    """All objects have the content of the newest."""
    own = of_class(seen.now, kind)
    return seen.now | dict.fromkeys(own, list(own.values())[-1])


@lie()
def copied(seen: Seen, kind: str) -> Objects:
    """Each object is there a second time, under a name of its own."""
    own = of_class(seen.now, kind)
    return seen.now | {fresh_name(kind, name, at): own[name] for at, name in enumerate(own)}


@lie()
def renamed(seen: Seen, kind: str) -> Objects:
    """The oldest object has another name."""
    name = next(iter(of_class(seen.now, kind)))
    told = {fresh_name(kind, name): seen.now[name], **seen.now}
    del told[name]
    return told


@lie()
def of_another_class(seen: Seen, kind: str) -> Objects:
    """Each object has the content of one of the next class."""
    other = CLASSES[(CLASSES.index(kind) + 1) % len(CLASSES)]
    content = next(iter(of_class(seen.now, other).values()))
    return seen.now | dict.fromkeys(of_class(seen.now, kind), content)


# -- what is left out -----------------------------------------------------------------------------------------------


@lie()
def none_left(seen: Seen, kind: str) -> Objects:
    return _without(seen.now, kind)


@lie()
def oldest_left_out(seen: Seen, kind: str) -> Objects:
    told = dict(seen.now)
    del told[next(iter(of_class(seen.now, kind)))]
    return told


@lie()
def newest_left_out(seen: Seen, kind: str) -> Objects:
    told = dict(seen.now)
    del told[list(of_class(seen.now, kind))[-1]]
    return told


# -- other times ----------------------------------------------------------------------------------------------------


@lie()
def older(seen: Seen, kind: str) -> Objects:
    """The class as it was, all else as it is."""
    return _without(seen.now, kind) | of_class(seen.older, kind)


@lie()
def all_else_older(seen: Seen, kind: str) -> Objects:
    """The class as it is, all else as it was."""
    return _without(seen.older, kind) | of_class(seen.now, kind)


@lie("log")
def all_older(seen: Seen, kind: str) -> Objects:
    """A whole state of the past."""
    del kind
    return dict(seen.older)


@lie("log")
def all_as_at_first(seen: Seen, kind: str) -> Objects:
    """The repository as it was before its first backup."""
    del kind
    return dict(seen.past[0])


@lie()
def deleted_is_back(seen: Seen, kind: str) -> Objects:
    """What was deleted on purpose is there again."""
    return {name: content for state in seen.past for name, content in of_class(state, kind).items()} | seen.now


@lie()
def other_future(seen: Seen, kind: str) -> Objects:
    """The class as it became in another future of an older state."""
    return _without(seen.now, kind) | of_class(seen.fork, kind)


@lie("log")
def all_of_another_future(seen: Seen, kind: str) -> Objects:
    del kind
    return dict(seen.fork)


@lie("log")
def both_futures(seen: Seen, kind: str) -> Objects:
    """What came in either future; where both have an object of a name, the other's."""
    del kind
    return seen.now | seen.fork


@lie("snapshots")
def buried(seen: Seen, kind: str) -> Objects:
    """Tombstones that the service has made for runs whose snapshots it was not shown."""
    return seen.now | of_class(seen.forged, kind)


# -- another repository ---------------------------------------------------------------------------------------------


@lie()
def one_more_of_another_repository(seen: Seen, kind: str) -> Objects:
    """Beside what is there, all objects of the class of another repository of the same secrets."""
    return seen.now | of_class(seen.other, kind)


@lie()
def contents_of_another_repository(seen: Seen, kind: str) -> Objects:
    """The names of this one, the contents of the other."""
    contents = list(of_class(seen.other, kind).values())
    own = of_class(seen.now, kind)
    return seen.now | {name: contents[at % len(contents)] for at, name in enumerate(own)}


@lie()
def class_of_another_repository(seen: Seen, kind: str) -> Objects:
    return _without(seen.now, kind) | of_class(seen.other, kind)


@lie("config")
def another_repository(seen: Seen, kind: str) -> Objects:
    del kind
    return dict(seen.other)
