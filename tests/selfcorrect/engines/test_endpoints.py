"""`Endpoint`: how much a server is given after answers, accidents and overload."""

from __future__ import annotations

import asyncio

from selfcorrect.engines.server.endpoints import FIRST_LIMIT, LONGEST_PAUSE_S, STRIKES, Endpoint, Endpoints, pause_s


def test_the_limit_doubles_in_a_round_then_grows_by_one() -> None:
    endpoint = Endpoint("u", most=100, backoff_s=1.0)
    for _ in range(int(FIRST_LIMIT)):
        endpoint.answered()
    assert endpoint.limit == 2 * FIRST_LIMIT
    endpoint.failed(0.0, 10.0, accident=False)
    assert endpoint.limit == FIRST_LIMIT
    for _ in range(int(FIRST_LIMIT)):
        endpoint.answered()
    assert FIRST_LIMIT + 0.9 < endpoint.limit <= FIRST_LIMIT + 1
    for _ in range(10_000):
        endpoint.answered()
    assert endpoint.limit == 100
    assert Endpoint("u", most=3, backoff_s=1.0).limit == 3


def test_one_burst_of_failures_halves_once_and_rests() -> None:
    endpoint = Endpoint("u", most=100, backoff_s=1.0)
    for _ in range(5):
        endpoint.failed(asked_at=9.0, now=10.0, accident=False)
    assert endpoint.limit == FIRST_LIMIT / 2
    assert not endpoint.has_room(10.4)
    assert endpoint.has_room(11.1)
    endpoint.failed(asked_at=11.0, now=12.0, accident=False, rest_s=30.0)
    assert not endpoint.has_room(41.9), "it rests as long as it asks for"
    assert endpoint.has_room(42.1)
    for i in range(10):
        endpoint.failed(asked_at=100.0 * i + 100, now=100.0 * i + 110, accident=False)
    assert endpoint.limit == 1
    assert endpoint.has_room(10**6), "one is always tried again"


def test_single_accidents_say_nothing_and_several_in_a_row_do() -> None:
    endpoint = Endpoint("u", most=100, backoff_s=1.0)
    for _ in range(10):
        for _ in range(STRIKES - 1):
            endpoint.failed(1.0, 2.0, accident=True)
        endpoint.answered()
    assert endpoint.limit == FIRST_LIMIT + 10
    for _ in range(STRIKES):
        endpoint.failed(1.0, 2.0, accident=True)
    assert endpoint.limit == (FIRST_LIMIT + 10) / 2
    assert not endpoint.has_room(2.1)


def test_pauses_double_up_to_a_minute() -> None:
    for failures in range(1, 20):
        longest = min(LONGEST_PAUSE_S, 0.5 * 2 ** (failures - 1))
        assert all(longest / 2 <= pause_s(0.5, failures) <= longest for _ in range(20))


def test_what_failed_at_a_server_goes_to_another_that_has_room() -> None:
    async def places() -> list[str]:
        servers = Endpoints(["a", "b"], most=1, backoff_s=1.0)
        a, b = servers.all
        found = []
        for failed in (None, a, b):
            async with servers.place(failed) as endpoint:
                found.append(endpoint.url)
        async with servers.place(a), servers.place(a) as endpoint:  # the other one is full
            found.append(endpoint.url)
        return found

    assert asyncio.run(places()) == ["a", "b", "a", "a"]
