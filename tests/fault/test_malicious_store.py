"""A store that lies, about each class of objects in many ways: each lie is found, refused, or does no harm.

A service that knows its repository does all its work with such a store: opens it, unlocks it, lists and reads every
snapshot, checks, takes a receipt and backs up. Whatever the lie, it never gives out wrong content, never takes a lost
backup for whole, never fails in an unforeseen way, and never works or reads without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from functools import cache

import pytest

from holdfast_server.errors import DataLoss, Reason
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository import (
    CheckLevel,
    CheckReport,
    LogVector,
    MaintenanceWatch,
    Repository,
    check_repository,
    compact_repository,
    prune_repository,
    repair_repository,
)
from holdfast_server.repository.format import PACK_MAX, SEALED_OBJECT_MAX
from holdfast_server.storage.objects import MemoryObjects
from tests.header_liars import HEADER_LIES
from tests.liars import CLASSES, LIES, MEANINGLESS, Objects, kind_of
from tests.lied_to import NOW, Account, Asked, History, cheap_keys, serve


class Answer(Enum):
    """What comes of a lie."""

    #: The repository is not opened.
    REFUSED = "refused"
    #: The check names an object of the class that was lied about, and every backup that is lost with it.
    FOUND = "found"
    #: The check says that the repository was rolled back, and nothing is written to it.
    ROLLED_BACK = "rolled back"
    #: No secret that was lied about opens anything; nothing else is different, and the check cannot know.
    SHUT = "shut"
    #: All that was stored comes back as it was, and nothing that is said is wrong.
    HARMLESS = "harmless"


FOUND, ROLLED_BACK, SHUT, HARMLESS = Answer.FOUND, Answer.ROLLED_BACK, Answer.SHUT, Answer.HARMLESS

#: What a lie comes to that is not simply found, or refused where it is about the config; and why.
ANSWERS: dict[tuple[str, str], tuple[Answer, str]] = {
    # What may go at any time, and what is only told in more detail by others.
    **{
        (name, kind): (HARMLESS, why)
        for name in ("none_left", "oldest_left_out", "newest_left_out", "older", "other_future")
        for kind, why in {
            "index": "the directories of packs say the same",
            "runs": "a run's object keeps what it needs from deletion; the store can delete anyway",
        }.items()
    },
    ("other_future", "index"): (FOUND, "it lists packs that were never there"),
    **{
        ("deleted_is_back", kind): (HARMLESS, why)
        for kind, why in {
            "packs": "its chunks are what they were; the log says that it may go",
            "index": "it lists packs that the log says are gone",
            "snapshots": "the log says that it was removed",
            "runs": "what it may have needed is deleted later",
            "log": "a checkpoint holds what is needed of it",
        }.items()
    },
    ("one_more_of_another_repository", "keys"): (HARMLESS, "a slot of another repository is nobody's"),
    # Key slots are bound to nothing but their secrets.
    **{
        (name, "keys"): (SHUT, "that a slot was deleted is not known to the log")
        for name in (
            "none_left", "oldest_left_out", "newest_left_out", "class_of_another_repository", "slots_of_nobody",
        )
    },
    **{
        (name, "keys"): (SHUT, "only its secret proves a slot's header")
        for name in ("weak_derivation", "public_key_replaced", "content_keys_replaced")
    },
    # Older states, and other futures of them.
    **{
        ("all_else_older", kind): (ROLLED_BACK, "the log is older") for kind in CLASSES if kind not in ("config", "log")
    },
    ("all_else_older", "log"): (FOUND, "the log tells of snapshots that are not there"),
    **{
        (name, "log"): (ROLLED_BACK, "the log lacks what was seen")
        for name in (
            "none_left", "newest_left_out", "older", "all_older", "all_as_at_first", "other_future", "both_futures",
            "all_of_another_future", "class_of_another_repository",
        )
    },
}  # fmt: skip

#: Damage that the check names in another class than the one that was lied about.
ELSEWHERE = {("other_future", "index"): "packs", ("all_else_older", "log"): "snapshots"}

#: In a repository that is sealed somebody must be able to open it.
SEALED = {(name, "keys"): FOUND for name in ("none_left", "class_of_another_repository", "slots_of_nobody")}

ALL = LIES | HEADER_LIES
PAIRS = [(name, kind) for name, (_, kinds) in ALL.items() for kind in kinds if (name, kind) not in MEANINGLESS]
#: What a sealed repository has no other way with than a plain one: nothing in it needs a content key.
ALIKE = ("index", "runs", "log")
CASES = [
    pytest.param(where, name, kind, marks=[pytest.mark.soak] if where == "sealed" and kind in ALIKE else [])
    for where in ("plain", "sealed")
    for name, kind in PAIRS
]

DAY_US = 24 * 3_600_000_000


@pytest.fixture(scope="module")
def derived() -> Iterator[list[KeyParameters]]:
    with cheap_keys() as derived:
        yield derived


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory, derived: list[KeyParameters]) -> Callable[[str], History]:
    """A repository that is plain, or one that is sealed; each is made once."""
    del derived
    return cache(lambda kind: History(tmp_path_factory.mktemp(kind), sealed=kind == "sealed"))


@pytest.fixture(params=["plain", "sealed"])
def history(request: pytest.FixtureRequest, histories: Callable[[str], History]) -> History:
    return histories(request.param)


@pytest.mark.parametrize(("where", "name", "kind"), CASES)
def test_a_lie_is_found_refused_or_does_no_harm(
    histories: Callable[[str], History], derived: list[KeyParameters], where: str, name: str, kind: str
) -> None:
    history = histories(where)
    told = ALL[name][0](history.seen, kind)
    assert told != history.seen.now
    derived.clear()
    store = Asked(told)
    account = serve(history, store)
    assert_bounded(store, derived)
    assert_honest(history, account)
    default = Answer.REFUSED if kind == "config" else FOUND
    answer, _ = ANSWERS.get((name, kind), (default, ""))
    if history.sealed:
        answer = SEALED.get((name, kind), answer)
    # None of it was told in vain: of what was changed something was read.
    changed = {one for one, content in told.items() if history.seen.now.get(one) != content}
    assert not changed or changed & store.read or answer is HARMLESS
    assert_answered(history, account, answer, ELSEWHERE.get((name, kind), kind))


def assert_bounded(store: Asked, derived: list[KeyParameters]) -> None:
    """However much there is, and whatever it says of itself."""
    assert store.calls < 1_500
    for kind, most in store.most.items():
        assert most <= (PACK_MAX if kind == "packs" else SEALED_OBJECT_MAX) + 1
    # One slot takes a passphrase, and three secrets were tried.
    assert len(derived) <= 3


def assert_honest(history: History, account: Account) -> None:
    """Nothing that is lost is said to be there."""
    report = account.report
    lost = account.lost & {*history.kept}
    if report is None:
        assert "open" in account.errors
        return
    assert lost <= {one.run_id for one in report.backups_damaged}
    assert not (report.ok and lost)
    assert not (report.ok and account.made and not account.made_reads)
    assert report.objects > 0
    assert report.rolled_back <= (not report.ok)


def assert_answered(history: History, account: Account, answer: Answer, kind: str) -> None:
    report = account.report
    if answer is Answer.REFUSED:
        assert set(account.errors) == {"open"}
        return
    assert report is not None
    assert "open" not in account.errors
    match answer:
        case Answer.FOUND:
            assert kind in {kind_of(one.object) for one in report.damaged}
            assert not report.rolled_back
        case Answer.ROLLED_BACK:
            assert report.rolled_back
            assert not report.ok
            assert account.behind or "receipt" in account.errors
            assert not account.made
        case Answer.SHUT:
            assert report.ok
            assert account.errors.keys() == {"unlock"}
            assert account.errors["unlock"].reason is Reason.KEY_WRONG
            assert account.unlocked < 2
        case Answer.HARMLESS:
            assert report.ok
            assert account.errors.keys() <= {"read"}
            assert account.unlocked == 2
    if answer in (Answer.SHUT, Answer.HARMLESS):
        # A snapshot that was removed may be shown again; what it needed may be gone.
        assert {*history.kept} <= account.shown
        assert not account.lost & {*history.kept}
        assert account.made_reads


def later() -> int:
    """All runs are over by then."""
    return NOW + 2 * DAY_US


def prune(repository: Repository) -> object:
    return prune_repository(repository, now=later, watch=MaintenanceWatch())


def compact(repository: Repository) -> object:
    return compact_repository(repository, now=later, watch=MaintenanceWatch())


def repair(repository: Repository) -> object:
    return repair_repository(repository, now=later, watch=MaintenanceWatch())


@pytest.mark.parametrize("work", [prune, *(pytest.param(one, marks=pytest.mark.soak) for one in (compact, repair))])
@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[1] not in ("config", "keys")])
def test_no_lie_lets_anything_be_removed_that_is_needed(
    histories: Callable[[str], History], name: str, kind: str, work: Callable[[Repository], object]
) -> None:
    """What a store hides for a time, and shows again, is whole."""
    history = histories("plain")
    told = ALL[name][0](history.seen, kind)
    store = MemoryObjects(told)
    repository = Repository.open(store, history.keys, history.node.fingerprint)
    with suppress(DataLoss):
        if not repository.lacks(history.vector, repository.log_heads()):
            work(repository)
    after = store.contents()
    made = {one: content for one, content in after.items() if one not in told}
    healed = {one: content for one, content in (history.seen.now | made).items() if one in after or one not in told}
    assert history.readable(healed) == {*history.kept}


def test_the_truth_is_believed(history: History) -> None:
    """All that is found above is found because of the lie."""
    account = serve(history, Asked(history.seen.now))
    assert account.errors == {}
    assert account.shown == {*history.kept}
    assert_answered(history, account, HARMLESS, "")


def test_every_pair_that_is_left_out_has_no_meaning(history: History) -> None:
    """It changes nothing, or there is nothing that it could change."""
    for name, kind in MEANINGLESS:
        tell, kinds = ALL[name]
        assert kind in kinds
        told = tell(history.seen, kind)
        assert kind == "config" or told == history.seen.now
    assert len(ALL) >= 20
    assert {name for name, _ in ANSWERS} <= ALL.keys()


def test_who_has_not_seen_what_is_gone_cannot_miss_it(history: History) -> None:
    """An older state of all is a whole repository; only who knows of a later one sees that it was rolled back."""
    for told in history.seen.past[1:3]:
        assert check_of(history, told).ok
        known = check_of(history, told, known=True)
        assert known.rolled_back
        assert {kind_of(one.object) for one in known.damaged} == {"log"}


def test_another_future_is_told_from_the_known_one_however_long(history: History) -> None:
    own = history.keys.writer.writer_id
    known = LogVector({own: history.vector[own]})
    repository = Repository.open(MemoryObjects(history.seen.fork), history.keys, history.node.fingerprint)
    heads = repository.log_heads()
    assert heads[own].sequence > known[own].sequence
    assert heads.behind(known) == []
    assert repository.lacks(known, heads) == [own]
    assert check_of(history, history.seen.fork).ok
    assert check_of(history, history.seen.fork, known=True).rolled_back


def check_of(history: History, told: Objects, *, known: bool = False) -> CheckReport:
    return check_repository(
        MemoryObjects(told), history.keys, CheckLevel.READ_DATA, now=lambda: NOW, fingerprint=history.node.fingerprint,
        content=history.node.content, known_log=history.vector if known else None,
    )  # fmt: skip
