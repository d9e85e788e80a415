"""docs/errors.md lists every reason with its remedy and the code it travels under."""

import re
from pathlib import Path

from holdfast_server import errors
from holdfast_server.errors import REMEDIES, HoldfastError, Reason
from holdfast_server.rpc.errors import STATUS_CODES

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"\| ([A-Z_]+) \| ([A-Z_]+) \| (.+) \|")


def documented() -> dict[str, tuple[str, str]]:
    rows = (ROW.fullmatch(line) for line in (ROOT / "docs/errors.md").read_text().splitlines())
    return {row[1]: (row[2], row[3]) for row in rows if row}


def test_every_reason_is_listed_with_its_remedy() -> None:
    assert {reason: remedy for reason, (_, remedy) in documented().items()} == {
        reason.value: REMEDIES[reason] for reason in Reason
    }


def test_the_codes_are_those_of_the_code() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "server/holdfast_server").rglob("*.py"))
    codes = {cls.__name__: code.name for cls, code in STATUS_CODES.items()}
    raised = re.findall(r"\b(\w+)\(\s*Reason\.(\w+)", source)
    for reason, (code, _) in documented().items():
        assert {codes[name] for name, of in raised if of == reason and name in codes} == {code}, reason


def test_every_leaf_has_a_status_code() -> None:
    leaves = {cls for cls in vars(errors).values() if isinstance(cls, type) and cls.__mro__[1] is HoldfastError}
    assert leaves == set(STATUS_CODES)
    assert len(set(STATUS_CODES.values())) == len(STATUS_CODES)
