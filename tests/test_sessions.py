"""Sessions: who a site takes the crawl for, and for how long."""

from __future__ import annotations

from collections import Counter

import pytest

from crawlkit.checkpoint import Checkpoint, Document, Loader, Snapshot
from crawlkit.crawling.sessionpool import MAX_NAMED, MAX_STICKY, SessionPool
from crawlkit.sessions import MAX_BLOCKED, Session
from crawlkit.testing import ManualClock

HOST = "shop.example"
URL = "http://shop.example/"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Disk:
    """What a store would keep of the sessions."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}

    def save(self, pool: SessionPool) -> Checkpoint:
        checkpoint = Checkpoint()
        with checkpoint.of("sessions"):
            pool.collect(checkpoint)
        for name, document in checkpoint.documents.items():
            if document is None:
                self.documents.pop(name, None)
            else:
                self.documents[name] = document
        return checkpoint

    def load(self, pool: SessionPool) -> SessionPool:
        Loader(Snapshot(documents=dict(self.documents))).restore("sessions", pool)
        return pool


# -- which session a host gets ----------------------------------------------------------------


def test_a_host_keeps_its_session_and_others_get_others(clock: ManualClock) -> None:
    pool = SessionPool(clock, size=3)
    first = pool.pick("a.example")
    assert pool.pick("a.example") is first
    assert pool.pick("b.example") is not first
    assert pool.pick("a.example") is first


def test_there_are_no_more_sessions_than_asked_for_and_all_are_used(clock: ManualClock) -> None:
    pool = SessionPool(clock, size=4)
    picks = Counter(pool.pick(f"{number}.example").id for number in range(40))
    assert len(pool) == 4
    assert set(picks.values()) == {10}


def test_sessions_are_made_when_they_are_needed(clock: ManualClock) -> None:
    pool = SessionPool(clock)
    assert len(pool) == 0
    for _ in range(10):
        pool.pick(HOST)
    assert len(pool) == 1


def test_a_blocked_session_is_not_used_there_again_but_elsewhere(clock: ManualClock) -> None:
    pool = SessionPool(clock, size=2)
    blocked = pool.pick(HOST)
    assert pool.pick("b.example") is not blocked
    assert pool.pick("c.example") is blocked
    blocked.mark_blocked(HOST)
    assert pool.pick(HOST) is not blocked
    assert pool.pick("c.example") is blocked


def test_where_all_are_blocked_one_is_replaced(clock: ManualClock) -> None:
    retired: list[tuple[str, str]] = []
    pool = SessionPool(clock, size=3, on_retired=lambda id, reason: retired.append((id, reason)))
    for _ in range(10):
        session = pool.pick(HOST)
        assert HOST not in session.blocked
        session.mark_blocked(HOST)
    assert len(pool) == 3
    assert len(retired) == 7
    assert {reason for _, reason in retired} == {"blocked"}


def test_new_sessions_have_the_headers_of_the_pool_each_their_own(clock: ManualClock) -> None:
    pool = SessionPool(clock, headers={"Accept-Language": "de"})
    one, other = pool.pick("a.example"), pool.pick("b.example")
    one.headers["X-Token"] = "1"
    assert one.headers == {"Accept-Language": "de", "X-Token": "1"}
    assert other.headers == {"Accept-Language": "de"}


def test_which_host_has_which_session_is_remembered_for_a_bounded_number(
    clock: ManualClock,
) -> None:
    pool = SessionPool(clock, max_usage=10**9)
    busy = pool.pick("busy.example")
    for number in range(MAX_STICKY + 500):
        pool.pick(f"{number}.example")
        if number % 100 == 0:
            assert pool.pick("busy.example") is busy
    assert len(pool._sticky) == MAX_STICKY


# -- sessions that are asked for --------------------------------------------------------------


def test_a_session_that_is_asked_for_by_id_is_had_for_as_long_as_it_is_asked_for(
    clock: ManualClock,
) -> None:
    pool = SessionPool(clock)
    account = pool.pick(HOST, "alice")
    assert account.id == "alice"
    for _ in range(500):
        clock.advance(60)
        assert pool.pick("other.example", "alice") is account


def test_a_named_session_is_given_to_nobody_else(clock: ManualClock) -> None:
    pool = SessionPool(clock, size=2)
    account = pool.pick(HOST, "alice")
    assert all(pool.pick(f"{number}.example") is not account for number in range(10))
    assert pool.pick(HOST) is not account
    # One of the pool's own that is asked for by its id leaves the others.
    session = pool.pick(HOST)
    assert pool.pick(HOST, session.id) is session
    assert pool.pick(HOST) is not session
    assert pool.pick(HOST, session.id) is session


def test_a_named_session_that_was_retired_or_blocked_is_made_anew(clock: ManualClock) -> None:
    pool = SessionPool(clock)
    first = pool.pick(HOST, "alice")
    first.store_cookies(URL, ["login=1"])
    first.retire()
    second = pool.pick(HOST, "alice")
    assert second is not first
    assert second.cookie_header(URL) == ""
    second.mark_blocked(HOST)
    assert pool.pick("other.example", "alice") is second
    third = pool.pick(HOST, "alice")
    assert third is not second
    assert second.retired == "blocked"


def test_names_by_the_million_cost_no_memory(clock: ManualClock) -> None:
    retired: list[str] = []
    pool = SessionPool(clock, on_retired=lambda id, reason: retired.append(f"{id} {reason}"))
    pool.pick(HOST, "kept")
    for number in range(MAX_NAMED + 10):
        pool.pick(HOST, f"n{number}")
        pool.pick(HOST, "kept")
    assert len(pool) == MAX_NAMED
    assert retired == [f"n{number} unused" for number in range(11)]


# -- health -----------------------------------------------------------------------------------


def test_a_session_serves_fifty_requests_and_then_another_takes_over(clock: ManualClock) -> None:
    retired: list[tuple[str, str]] = []
    pool = SessionPool(clock, on_retired=lambda id, reason: retired.append((id, reason)))
    picks = Counter(pool.pick(HOST).id for _ in range(500))
    assert set(picks.values()) == {50}
    assert len(retired) == 9
    assert {reason for _, reason in retired} == {"usage"}
    assert len(pool) == 1


def test_a_session_is_replaced_when_it_is_fifty_minutes_old(clock: ManualClock) -> None:
    pool = SessionPool(clock)
    first = pool.pick(HOST)
    clock.advance(2999)
    assert pool.pick(HOST) is first
    clock.advance(1)
    assert pool.pick(HOST) is not first
    assert first.retired == "age"


def test_three_failures_retire_a_session_unless_successes_outweigh_them(
    clock: ManualClock,
) -> None:
    pool = SessionPool(clock)
    session = pool.pick(HOST)
    session.mark_bad()
    session.mark_bad()
    session.mark_good()
    session.mark_bad()
    assert session.retired is None
    assert session.error_score == 2.5
    session.mark_bad()
    assert session.retired == "errors"
    assert pool.pick(HOST) is not session


def test_the_score_never_falls_below_zero(clock: ManualClock) -> None:
    session = Session("x", clock)
    session.mark_bad()
    for _ in range(5):
        session.mark_good()
    assert session.error_score == 0.0


def test_a_session_that_many_hosts_block_is_retired_for_all(clock: ManualClock) -> None:
    session = Session("x", clock)
    for number in range(MAX_BLOCKED):
        session.mark_blocked(f"{number}.example")
    assert session.retired is None
    assert session.is_usable(HOST, clock.now())
    session.mark_blocked("one-more.example")
    assert session.retired == "blocked"
    assert not session.is_usable(HOST, clock.now())


def test_a_handler_can_retire_its_session_and_that_is_told_once(clock: ManualClock) -> None:
    retired: list[tuple[str, str]] = []
    pool = SessionPool(clock, on_retired=lambda id, reason: retired.append((id, reason)))
    session = pool.pick(HOST)
    session.retire()
    session.retire("again")
    session.mark_bad()
    assert retired == [(session.id, "handler")]
    assert pool.pick(HOST) is not session
    assert len(pool) == 1


# -- restarts ---------------------------------------------------------------------------------


def test_a_session_is_the_same_after_a_restart(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock)
    pool.pick("first.example")
    session = pool.pick(HOST)
    session.proxy = "http://two:2"
    session.store_cookies(URL, ["login=1; Path=/", "short=1; Max-Age=5"])
    session.headers["X-Token"] = "t"
    session.mark_bad()
    session.mark_blocked("other.example")
    disk.save(pool)
    clock.advance(100)

    restored = disk.load(SessionPool(clock))
    again = restored.pick(HOST)  # known again from its cookies
    assert again.id == session.id
    assert again.cookie_header(URL) == "login=1"
    assert again.headers == {"X-Token": "t"}
    assert again.proxy == "http://two:2"
    assert again.error_score == 1.0
    assert again.blocked == {"other.example"}
    assert again.usage_count == 2
    assert again.created_at == session.created_at
    again.mark_bad()
    again.mark_bad()
    assert again.retired == "errors"


def test_cookies_of_a_domain_bring_its_hosts_back_to_their_session(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock)
    for number in range(5):
        pool.pick(f"{number}.example")
    session = pool.pick("www.shop.example:8080")
    session.store_cookies("http://www.shop.example:8080/", ["login=1; Domain=shop.example"])
    disk.save(pool)
    restored = disk.load(SessionPool(clock))
    assert restored.pick("www.shop.example:8080").id == session.id
    assert restored.pick("unrelated.example").id != session.id


def test_a_named_session_is_still_the_named_one_after_a_restart(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock)
    pool.pick(HOST, "ann/1").store_cookies(URL, ["login=1"])
    disk.save(pool)
    clock.advance(10_000)
    restored = disk.load(SessionPool(clock))
    assert restored.pick(HOST).cookie_header(URL) == ""
    assert restored.pick(HOST, "ann/1").cookie_header(URL) == "login=1"


def test_only_what_changed_is_saved_and_plain_sessions_never_are(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock)
    for number in range(100):
        pool.pick(f"{number}.example")
    assert not disk.save(pool)

    session = pool.pick(HOST)
    session.store_cookies(URL, ["a=1"])
    assert list(disk.save(pool).documents) == [f"sessions/{session.id}"]
    assert not disk.save(pool)
    session.store_cookies(URL, ["a=1"])
    assert not disk.save(pool)
    session.headers["X"] = "y"
    assert disk.save(pool)
    session.mark_blocked(HOST)
    assert disk.save(pool)
    assert not disk.save(pool)


def test_a_retired_session_leaves_nothing_behind(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock, size=2)
    for _ in range(20):
        session = pool.pick(HOST)
        session.store_cookies(URL, ["a=1"])
        disk.save(pool)
        session.retire()
    assert len(disk.documents) == 1
    disk.save(pool)
    assert disk.documents == {}


def test_what_has_served_its_time_is_not_taken_back(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock, size=5)
    for number in range(5):
        session = pool.pick(f"{number}.example")
        session.store_cookies(f"http://{number}.example/", ["a=1"])
    disk.save(pool)
    clock.advance(1000)
    assert len(disk.load(SessionPool(clock, size=2))) == 2
    clock.advance(3000)
    late = disk.load(SessionPool(clock, size=5))
    assert len(late) == 0
    disk.save(late)
    assert disk.documents == {}


def test_a_clock_set_back_between_two_lives_makes_no_session_younger(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock)
    pool.pick(HOST).store_cookies(URL, ["a=1"])
    disk.save(pool)
    earlier = ManualClock(clock.now() - 365 * 86400)
    restored = disk.load(SessionPool(earlier)).pick(HOST)
    assert restored.created_at <= earlier.now()


def test_without_persistence_nothing_is_saved_and_what_was_is_dropped(clock: ManualClock) -> None:
    disk = Disk()
    pool = SessionPool(clock)
    pool.pick(HOST).store_cookies(URL, ["a=1"])
    disk.save(pool)
    plain = disk.load(SessionPool(clock, persist=False))
    session = plain.pick(HOST)
    assert session.cookie_header(URL) == ""
    session.store_cookies(URL, ["a=2"])
    disk.save(plain)
    assert disk.documents == {}
