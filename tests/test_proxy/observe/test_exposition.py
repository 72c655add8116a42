"""A scrape stops nobody: a large one is rendered in pieces, with a turn for everything else after each of them."""

import asyncio
from collections.abc import Iterator

from oauth_pool_proxy.observe.exposition import Exposition, pieces
from oauth_pool_proxy.observe.instruments import PART, Counter, Histogram
from oauth_pool_proxy.observe.metrics import Metrics
from oauth_pool_proxy.observe.pool_metrics import PoolCollector
from oauth_pool_proxy.observe.usage import Usage
from oauth_pool_proxy.pool.pool import Pool
from tests.test_proxy.pool.test_pool import NOW, entry, pool_of

ACCOUNTS = 1000


def large() -> tuple[Metrics, Pool]:
    """All that a thousand accounts can say."""
    metrics, pool = Metrics(), pool_of(*(entry(f"a-{number}") for number in range(ACCOUNTS)))
    metrics.add(PoolCollector(pool, lambda: NOW, lambda: (5.0, 2)))
    for account in pool.accounts:
        for window in (b"5h", b"7d", b"7d_opus"):
            prefix = b"anthropic-ratelimit-unified-" + window
            account.limits += [(prefix + b"-utilization", b"0.5"), (prefix + b"-reset", b"1900000000")]
        metrics.account_answered(account.name, 0.1)
        metrics.used(account.name, "model", Usage(1, 2, 3, 4))
    return metrics, pool


class Turns:
    """How often everything else on the loop has its turn."""

    def __init__(self) -> None:
        self.count, self._is_on = 0, True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self.count += 1
        if self._is_on:
            asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._is_on = False


async def test_with_a_thousand_accounts_everything_else_has_its_turn_many_times() -> None:
    """It fails when a family comes in one piece: the number of turns is that of the pieces, whatever the machine."""
    metrics, _ = large()
    exposition = Exposition(metrics.pieces)
    turns = Turns()
    texts = await asyncio.gather(*(exposition.text() for _ in range(5)))
    turns.stop()
    samples = [line for line in texts[0].splitlines() if not line.startswith(b"#")]
    assert len(samples) > 25 * ACCOUNTS
    assert turns.count > len(samples) / PART


async def test_no_piece_is_large() -> None:
    metrics, _ = large()
    for piece in metrics.pieces():
        assert len(piece.splitlines()) <= PART + 2  # HELP and TYPE


async def test_a_family_in_pieces_reads_as_one() -> None:
    metrics, _ = large()
    text = b"".join(metrics.pieces()).decode()
    lines = text.splitlines()
    heads = [line for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    assert len(lines) == len(set(lines))
    for name in ("pool_account_in_flight", "pool_tokens_total", "pool_account_status"):
        of_family = [number for number, line in enumerate(lines) if line.startswith(f"{name}{{")]
        assert len(of_family) % ACCOUNTS == 0
        assert of_family == list(range(of_family[0], of_family[-1] + 1))


async def test_what_changes_between_two_pieces_does_no_harm() -> None:
    """The pool is replaced, and new series appear."""
    metrics, pool = large()
    text = []
    for number, piece in enumerate(metrics.pieces()):
        text.append(piece)
        metrics.account_answered(f"new-{number}", 0.1)
        metrics.quota_exhausted(f"new-{number}")
        if b"pool_account_status" in piece:
            pool.replace([])
    assert b'pool_account_in_flight{account_id="a-999"} 0.0\n' in b"".join(text)
    assert b"pool_account_in_flight{" not in b"".join(metrics.pieces())


def test_families_without_series_are_named_all_the_same() -> None:
    class Both:
        def collect(self) -> Iterator[object]:
            yield from Counter("c", "C", "a").collect()
            yield from Histogram("h", "H", (1, 2)).collect()

    text = b"".join(pieces(Both()))  # type: ignore[arg-type]
    assert text == b"# HELP c_total C\n# TYPE c_total counter\n# HELP h H\n# TYPE h histogram\n"


async def test_who_asks_while_it_is_rendered_gets_the_same_and_who_asks_after_gets_news() -> None:
    number = 0

    def render() -> Iterator[bytes]:
        nonlocal number
        number += 1
        yield b"%d" % number
        yield b"!"

    exposition = Exposition(render)
    assert await asyncio.gather(*(exposition.text() for _ in range(10))) == [b"1!"] * 10
    assert await exposition.text() == b"2!"


async def test_who_leaves_does_not_take_the_others_answer_along() -> None:
    exposition = Exposition(lambda: iter((b"a", b"b")))
    leaves, stays = asyncio.create_task(exposition.text()), asyncio.create_task(exposition.text())
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == b"ab"


async def test_a_rendering_that_fails_does_not_end_the_next_one() -> None:
    answers = iter([[b"good"]])

    def render() -> Iterator[bytes]:
        yield b""
        yield from next(answers)

    exposition = Exposition(render)
    assert await exposition.text() == b"good"
    for _ in range(2):
        try:
            await exposition.text()
        except RuntimeError:  # an iterator that is used up, inside a generator
            continue
        raise AssertionError("it did not fail")
