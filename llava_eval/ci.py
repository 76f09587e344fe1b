"""What build servers read of a gate's decisions: JUnit's XML, and GitHub's annotations."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from llava_eval.gate import Decision
from llava_eval.leaderboard import number_text

_SUITE = "llava-eval check"
# XML 1.0 has no way to write these, escaped or not.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(decisions: Sequence[Decision], *, candidate: str) -> bytes:
    """One test case a task: failed, skipped, or passed with what is in doubt as its output.

    Args:
        candidate: name of what was decided on.
    """
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        name=_SUITE,
        tests=str(len(decisions)),
        failures=str(sum(each.outcome == "failed" for each in decisions)),
        errors="0",
        skipped=str(sum(each.outcome == "skipped" for each in decisions)),
    )
    for decision in decisions:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_writable(candidate), name=decision.name, time="0"
        )
        if decision.outcome in ("failed", "skipped"):
            message = _writable("; ".join(decision.reasons))
            kind = "failure" if decision.outcome == "failed" else "skipped"
            ElementTree.SubElement(case, kind, message=message).text = _writable(_told(decision))
        else:
            ElementTree.SubElement(case, "system-out").text = _writable(_told(decision))
    ElementTree.indent(suites)
    text: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _told(decision: Decision) -> str:
    first, second = (
        number_text(value, decision.unit) for value in (decision.first, decision.second)
    )
    numbers = (
        f"baseline {first}, candidate {second}, difference {decision.difference} "
        f"({decision.interval}), allowed loss {decision.allowed}"
    )
    return "\n".join([numbers, *decision.reasons])


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)


def github_annotations(decisions: Sequence[Decision]) -> str:
    """GitHub's workflow commands: an error for each failed task, a warning for each in doubt."""
    levels = {"failed": "error", "doubt": "warning"}
    return "".join(
        f"::{levels[decision.outcome]} title={_property(f'llava-eval: {decision.name}')}::"
        f"{_data('; '.join(decision.reasons))}\n"
        for decision in decisions
        if decision.outcome in levels
    )


def _data(text: str) -> str:
    """Text as a workflow command carries it; the toolkit of actions escapes these three."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
