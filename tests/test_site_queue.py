"""Sites stay with their worker, the longest begin first, and nobody waits for ever."""

from fedderm.site_queue import WINDOW, SiteQueue


def queue(sites: int, workers: int = 2) -> SiteQueue[int]:
    found: SiteQueue[int] = SiteQueue(range(workers))
    fill(found, sites)
    return found


def fill(found: SiteQueue[int], sites: int) -> None:
    for site in range(sites):
        found.put(site, site, "train")


def taken(found: SiteQueue[int], worker: int, seconds: float = 1.0) -> int | None:
    """Take one job and note how long it took."""
    waiting = found.take(worker)
    if waiting is None:
        return None
    found.took(waiting, seconds)
    return waiting.job


def test_a_first_round_goes_in_order_and_ends() -> None:
    found = queue(5)
    assert [taken(found, worker) for worker in (0, 1, 0, 1, 1, 0)] == [0, 1, 2, 3, 4, None]


def test_sites_stay_with_the_worker_that_has_them_open() -> None:
    found = queue(6)
    first = {taken(found, worker): worker for worker in (0, 1, 1, 0, 1, 0)}
    fill(found, 6)
    again = {taken(found, worker): worker for worker in (0, 0, 0, 1, 1, 1)}
    assert first == again


def test_a_worker_without_work_takes_over_anothers_site_for_good() -> None:
    found = queue(4)
    for _ in range(4):
        taken(found, 0)
    fill(found, 4)
    assert taken(found, 1) == 0, "worker 1 has none of its own"
    fill(found, 1)
    assert [taken(found, 1), taken(found, 1)] == [0, 1]


def test_the_longest_begins_and_like_ones_keep_their_order() -> None:
    found = queue(4, workers=1)
    for seconds in (1.0, 1.1, 5.0, 1.2):
        taken(found, 0, seconds)
    fill(found, 4)
    assert [taken(found, 0) for _ in range(4)] == [2, 0, 1, 3]


def test_nobody_is_passed_over_for_ever() -> None:
    """Site 0 is the shortest; its reply is wanted first, and others wait for it in memory."""
    found = queue(40, workers=1)
    for site in range(40):
        taken(found, 0, 0.1 if site == 0 else 1.0 * 1.3**site)
    fill(found, 40)
    order = [taken(found, 0) for _ in range(40)]
    assert sorted(order) == list(range(40))
    assert order.index(0) == WINDOW


def test_the_sites_of_a_lost_worker_are_done_by_the_others() -> None:
    found = queue(4)
    for worker in (0, 1, 0, 1):
        taken(found, worker)
    fill(found, 4)
    found.retire(1)
    assert found.workers == 1
    assert sorted(taken(found, 0) for _ in range(4)) == [0, 1, 2, 3]
    fill(found, 2)
    assert [taken(found, 0), taken(found, 0), taken(found, 0)] == [0, 1, None]


def test_a_job_is_taken_ahead_only_while_the_others_find_enough() -> None:
    """Two workers, six sites: behind site 0 another is taken while more than two wait, and then no more."""
    found = queue(6)
    assert taken(found, 0) == 0
    ahead = []
    while (waiting := found.take(0, [0])) is not None:
        ahead.append(waiting.job)
    assert ahead == [1, 2, 3]
    assert [taken(found, 1), taken(found, 1), taken(found, 1)] == [4, 5, None]


def test_a_job_is_not_taken_ahead_from_another_worker_nor_behind_its_own_site() -> None:
    found = queue(4)
    for _ in range(4):
        taken(found, 0)
    fill(found, 4)
    assert found.take(1, [7]) is None, "all four are at home with worker 0"
    assert found.take(0, [0]) is None, "site 0 is what it works on"


def test_what_was_not_begun_comes_back_first() -> None:
    found = queue(4)
    first, second = found.take(0), found.take(0)
    assert first is not None
    assert second is not None
    found.put_back(second)
    found.put_back(first)
    assert [taken(found, 0) for _ in range(4)] == [0, 1, 2, 3]
