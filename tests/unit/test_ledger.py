"""The fold over the ledger."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.ledger.ledger import NOT_UNDONE, OPEN, Ledger, action_id_for
from curb.stream.records.spend import LedgerEntry, NoticeEntry, Plan


def entry(state: Any, at: float, *, action_id: str = "x", alert_id: str = "a1", **changes: Any) -> LedgerEntry:
    plan = Plan(action="gate", target="gate/k1", summary="", before={"rpm": None}, after={"rpm": 1})
    base = LedgerEntry(action_id=action_id, state=state, at=at, alert_id=alert_id, fingerprint="f", plan=plan)
    return msgspec.structs.replace(base, **changes)


def notice(state: Any, at: float, key: str = "n1", ref: str = "") -> NoticeEntry:
    return NoticeEntry(key=key, channel="chat", alert_id="a1", state=state, at=at, ref=ref)


def test_ids_are_the_same_everywhere_and_differ_by_episode() -> None:
    first = action_id_for("a1", "gate", 1)
    assert first == "2c500017a57d92c3"
    assert len(first) == 16
    assert action_id_for("a1", "gate", 2) == f"{first}-2"
    assert action_id_for("a1", "other", 1) != first


def test_open_until_it_ends() -> None:
    ledger = Ledger([entry("planned", 1)])
    assert [state.last.state for state in ledger.open_actions()] == ["planned"]
    ledger.add(entry("applied", 2))
    ledger.add(entry("effective", 3))
    assert ledger.open_actions()[0].applied_at == 2
    assert ledger.holder("gate/k1") is not None
    ledger.add(entry("restored", 4))
    assert ledger.open_actions() == []
    assert ledger.holder("gate/k1") is None


def test_what_could_not_be_undone_keeps_its_target() -> None:
    refused = Ledger([entry("planned", 1), entry("failed", 2, detail="HTTP 403")])
    assert refused.holder("gate/k1") is None
    stuck = Ledger([entry("applied", 1), entry("failed", 2, detail=f"{NOT_UNDONE}HTTP 401")])
    assert stuck.open_actions() == []
    assert stuck.holder("gate/k1") is not None


def test_only_what_was_planned_counts_as_begun() -> None:
    ledger = Ledger([entry("planned", 10), entry("applied", 11), entry("shadow", 12, action_id="y")])
    ledger.add(entry("skipped", 12, action_id="z"))
    assert ledger.begun_since(10) == 1
    assert ledger.begun_since(10.5) == 0


def test_the_reference_of_a_message_outlives_later_failures() -> None:
    ledger = Ledger([notice("sending", 1), notice("sent", 2, ref="C:1"), notice("sending", 3, "n2")])
    ledger.add(notice("failed", 4, "n2"))
    last = ledger.last_notice("chat", "a1")
    assert last is not None
    assert (last.key, last.state) == ("n2", "failed")
    assert ledger.sent_ref("chat", "a1") == "C:1"
    assert ledger.sent_ref("other", "a1") == ""


def test_forgetting_keeps_what_is_open_stuck_wanted_or_new() -> None:
    ledger = Ledger(
        [
            entry("restored", 1, action_id="old", alert_id="a-old"),
            entry("applied", 1, action_id="open", alert_id="a-open"),
            entry("failed", 1, action_id="stuck", alert_id="a-stuck", detail=NOT_UNDONE),
            entry("restored", 1, action_id="kept", alert_id="a-kept"),
            entry("restored", 9, action_id="new", alert_id="a-new"),
            notice("sent", 1),
        ]
    )
    ledger.forget(5, frozenset({"a-kept"}))
    assert [state.last.action_id for state in ledger.actions()] == ["open", "stuck", "kept", "new"]
    assert ledger.last_notice("chat", "a1") is None
    assert ledger.for_alert("a-old") == []


_STATES = st.sampled_from(["planned", "shadow", "applied", "effective", "ineffective", "restored", "failed", "drift"])
_ENTRIES = st.lists(st.tuples(_STATES, st.sampled_from(["x", "y", "z"])), max_size=12)


@given(_ENTRIES)
def test_folding_entries_twice_in_a_row_changes_nothing(steps: list[tuple[str, str]]) -> None:
    entries = [entry(state, at, action_id=name) for at, (state, name) in enumerate(steps)]
    once = Ledger(entries)
    doubled = Ledger([same for one in entries for same in (one, one)])
    assert list(doubled.actions()) == list(once.actions())
    last_states = {name: state for state, name in steps}
    assert len(once.open_actions()) == sum(state in OPEN for state in last_states.values())


_STATES = ["proposed", "planned", "applied", "effective", "ineffective", "restored", "failed", "skipped", "drift"]
_entries = st.builds(
    lambda state, number, standing, stuck: entry(
        state,
        float(number),
        action_id=f"i{number % 4}",
        alert_id=f"a{number % 4 % 3}",
        standing=standing,
        detail=NOT_UNDONE if stuck else "",
    ),
    st.sampled_from(_STATES),
    st.integers(0, 40),
    st.sampled_from(["", "policy"]),
    st.booleans(),
)


@given(st.lists(_entries, max_size=30), st.sampled_from(["", "i1"]))
def test_what_is_looked_up_is_what_a_walk_over_all_would_find(entries: list[LedgerEntry], dropped: str) -> None:
    ledger = Ledger(entries)
    ledger.drop(dropped)
    ledger.forget(20.0, frozenset({"a1"}))
    every = list(ledger.actions())
    ids = sorted(state.last.action_id for state in every if state.is_held or state.is_pending)
    assert sorted(state.last.action_id for state in ledger.live()) == ids
    begun = [state for state in every if any(e.state in ("planned", "applied", "restored") for e in state.entries)]
    assert {state.last.action_id for state in begun} <= {state.last.action_id for state in ledger.begun()}
    standing = [state for states in ledger.standing().values() for state in states]
    assert sorted(s.last.action_id for s in standing) == sorted(s.last.action_id for s in every if s.is_standing)
    assert {state.last.action_id for state in ledger.begun()} <= {state.last.action_id for state in every}
