"""Send buffer, receive queue, reassembly and scoreboard against naive models."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ztnode.netstack.tcp.framing import payload_sums
from ztnode.netstack.tcp.receive_buffer import Reassembly, ReceiveQueue, ReceiveWindow
from ztnode.netstack.tcp.scoreboard import IN_FLIGHT, LOST, SACKED, Scoreboard
from ztnode.netstack.tcp.send_buffer import SendBuffer
from ztnode.wire.checksum import NATIVE_FACTOR, region_sum

SIZES = st.lists(st.one_of(st.integers(0, 40), st.integers(1000, 5000)), min_size=1, max_size=25)


_PATTERN = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(5000))
_SHIFTS = [bytes((seed + value) & 0xFF for value in range(256)) for seed in range(256)]


def pattern(length: int, seed: int = 0) -> bytes:
    """At most 5,000 bytes, of 256 kinds."""
    return _PATTERN[:length].translate(_SHIFTS[seed & 0xFF])


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 3000), st.data())
def test_send_buffer_cuts_what_was_written(sizes: list[int], mss: int, data: st.DataObject) -> None:
    start = 1 << 33
    buffer = SendBuffer(start)
    written = b""
    una = 0
    for number, size in enumerate(sizes):
        piece = pattern(size, number)
        buffer.append(piece)
        written += piece
        if una < len(written) and data.draw(st.booleans()):
            una = data.draw(st.integers(una, len(written)))
            buffer.acknowledge(start + una)
        if una < len(written):
            low = data.draw(st.integers(una, len(written) - 1))
            high = data.draw(st.integers(low + 1, len(written)))
            segments = buffer.cut(start + low, start + high, mss)
            joined = [b"".join(parts) for parts in segments]
            assert b"".join(joined) == written[low:high]
            assert all(len(s) == mss for s in joined[:-1])
            assert all(len(part) for parts in segments for part in parts)
            lengths, sums = payload_sums(segments)
            assert lengths == [len(s) for s in joined]
            assert [s * NATIVE_FACTOR % 65535 for s in sums] == [region_sum(s) for s in joined]
    assert len(buffer) == len(written) - una


def test_send_buffer_does_not_copy_large_writes() -> None:
    buffer = SendBuffer(0)
    data = bytearray(b"x" * 10000)
    buffer.append(memoryview(data))
    data[5] = ord("y")
    assert bytes(buffer.cut(0, 10, 10)[0][0]) == b"xxxxxyxxxx"


def test_send_buffer_gathers_small_writes() -> None:
    buffer = SendBuffer(0)
    for _ in range(1000):
        buffer.append(b"abc")
    assert sum(len(parts) for parts in buffer.cut(0, 3000, 1400)) <= 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["push", "read", "copy"]), st.integers(1, 6000)), max_size=40))
def test_receive_queue_is_a_pipe_whose_memory_is_its_own_after_copy_unread(steps: list[tuple[str, int]]) -> None:
    queue = ReceiveQueue()
    expected = b""
    got = b""
    ring: list[bytearray] = []
    for number, (what, size) in enumerate(steps):
        if what == "push":
            ring.append(bytearray(pattern(size, number)))
            expected += ring[-1]
            queue.push(memoryview(ring[-1]))
        elif what == "read":
            got += b"".join(queue.read(size))
        else:
            queue.copy_unread()
            for piece in ring:
                piece[:] = bytes(len(piece))
            ring.clear()
        assert queue.size == len(expected) - len(got)
    got += b"".join(queue.read(1 << 30))
    assert got == expected


def test_receive_queue_merges_what_trickles_in() -> None:
    queue = ReceiveQueue()
    for _ in range(5000):
        queue.push(memoryview(b"z"))
        queue.copy_unread()
    assert len(queue._pieces) < 10
    assert b"".join(queue.read(10000)) == b"z" * 5000


PIECES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60)), max_size=40)


@settings(max_examples=120, deadline=None)
@given(PIECES)
def test_reassembly_against_a_map_of_bytes(pieces: list[tuple[int, int]]) -> None:
    stream = pattern(400)
    store = Reassembly()
    have: set[int] = set()
    for start, length in pieces:
        new = set(range(start, start + length))
        stored, duplicate = store.insert(start, stream[start : start + length], 1 << 20)
        assert stored == bool(new - have)
        assert (duplicate is not None) == bool(new & have)
        if duplicate is not None:
            assert set(range(*duplicate)) <= new & have
        have |= new
        blocks = store.sack_blocks(1000)
        assert len(blocks) == len(store)
        assert {n for left, right in blocks for n in range(left, right)} == have
        assert blocks[0][0] <= start < blocks[0][1]  # RFC 2018 section 4: the most recent first
        assert not any(a[1] >= b[0] for a, b in zip(sorted(blocks), sorted(blocks)[1:], strict=False))
    upto, taken = store.pop(1)
    run = 1
    while run in have:
        run += 1
    assert upto == run
    assert b"".join(taken) == stream[1:run]
    if not store:
        assert store.cost == 0


def test_reassembly_is_bounded_in_ranges_and_in_bytes() -> None:
    store = Reassembly(max_ranges=10)
    assert sum(store.insert(2 * n, b"x", 1 << 20)[0] for n in range(50)) == 10
    small = Reassembly()
    assert sum(small.insert(1000 * n, b"x" * 500, 10000)[0] for n in range(100)) < 20
    assert small.cost <= 10000
    tiny = Reassembly()
    for n in range(10000):  # adjacent one-byte segments must not cost an object each
        tiny.insert(10 + n, b"x", 1 << 20)
    assert len(tiny) == 1
    assert tiny.cost < 20000


def test_rfc2018_blocks_repeat_the_most_recent() -> None:
    store = Reassembly()
    for start in (100, 300, 500, 700):
        store.insert(start, b"x" * 50, 1 << 20)
    assert store.sack_blocks(3) == [(700, 750), (500, 550), (300, 350)]
    store.insert(150, b"x" * 10, 1 << 20)
    assert store.sack_blocks(3) == [(100, 160), (700, 750), (500, 550)]


@given(st.integers(1, 70_000), st.integers(0, 80_000), st.integers(0, 80_000), st.integers(1, 9000), st.integers(0, 3))
def test_what_is_offered_and_when_to_say_so(limit: int, offered: int, unread: int, mss: int, scale: int) -> None:
    """RFC 9293 section 3.8.6.2.2, without the short cuts."""
    window = ReceiveWindow(1000, limit, limit)
    window.edge = 1000 + offered
    gain = limit - unread - offered
    due = gain >= mss and (gain >= limit >> 1 or offered < mss or gain >= 2 * offered)
    assert window.update_due(1000, unread, mss) == due
    room = max(limit - unread, 0) >> scale << scale
    after = room if room - offered >= min(mss, limit >> 1) else offered
    assert window.announce(1000, unread, mss, scale) == min(after >> scale, 0xFFFF)
    assert window.edge == 1000 + after


def test_rfc9293_window_moves_by_worthwhile_steps_and_never_back() -> None:
    window = ReceiveWindow(1000, 10000, 10000)
    assert window.announce(1000, 0, 1000, 0) == 10000
    assert window.announce(3000, 2000, 1000, 0) == 8000  # unread: the edge stays
    assert window.announce(3000, 1500, 1000, 0) == 8000  # half a segment of room is not worth telling
    assert window.announce(3000, 900, 1000, 0) == 9100
    window.limit = 5000
    assert window.announce(3000, 0, 1000, 0) == 9100  # shrinking the buffer does not take back what was offered


def test_window_grows_while_the_owner_keeps_up_and_stops_at_the_limit() -> None:
    window = ReceiveWindow(0, 64 << 10, 1 << 20)
    now = 0.0
    for _ in range(200):
        now += 0.01
        window.consumed(window.limit, 0.01, now)
    assert window.limit == 1 << 20
    idle = ReceiveWindow(0, 64 << 10, 1 << 20)
    for _ in range(200):
        now += 0.01
        idle.consumed(100, 0.01, now)
    assert idle.limit == 64 << 10


class Model:
    """The scoreboard, byte by byte."""

    def __init__(self) -> None:
        self.una = self.nxt = 0
        self.state: dict[int, int] = {}

    def count(self, state: int) -> int:
        return sum(1 for value in self.state.values() if value == state)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_scoreboard_against_a_model_of_bytes(data: st.DataObject) -> None:
    board, model = Scoreboard(0), Model()
    now = 0.0
    for _ in range(data.draw(st.integers(1, 30))):
        now += 1.0
        action = data.draw(st.sampled_from(["send", "send", "ack", "sack", "sack", "lose", "resend", "all", "undo"]))
        board.begin()
        if action == "send":
            size = data.draw(st.integers(1, 20))
            board.transmitted(model.nxt, model.nxt + size, now)
            model.state.update(dict.fromkeys(range(model.nxt, model.nxt + size), IN_FLIGHT))
            model.nxt += size
        elif model.una == model.nxt:
            continue
        elif action == "ack":
            upto = data.draw(st.integers(model.una, model.nxt))
            board.acknowledge(upto)
            fresh = [n for n in range(model.una, upto) if model.state[n] != SACKED]
            assert board.delivered == len(fresh)
            for n in range(model.una, upto):
                del model.state[n]
            model.una = upto
        elif action == "sack":
            left = data.draw(st.integers(model.una, model.nxt - 1))
            right = data.draw(st.integers(left + 1, model.nxt))
            board.sack(left, right)
            assert board.delivered == sum(1 for n in range(left, right) if model.state[n] != SACKED)
            model.state.update(dict.fromkeys(range(left, right), SACKED))
        elif action == "lose":
            left = data.draw(st.integers(model.una, model.nxt - 1))
            right = data.draw(st.integers(left + 1, model.nxt))
            board.mark_range_lost(left, right)
            for n in range(left, right):
                if model.state[n] == IN_FLIGHT:
                    model.state[n] = LOST
        elif action == "resend":
            lost = board.next_lost()
            first = min((n for n, s in model.state.items() if s == LOST), default=None)
            assert (lost is None) == (first is None)
            if lost is not None:
                assert lost[0] == first
                end = data.draw(st.integers(lost[0] + 1, lost[1]))
                board.retransmitted(lost[0], end, now)
                model.state.update(dict.fromkeys(range(lost[0], end), IN_FLIGHT))
        elif action == "all":
            board.mark_all_lost()
            model.state = {n: LOST if s == IN_FLIGHT else s for n, s in model.state.items()}
        else:
            board.forget_losses()
            model.state = {n: IN_FLIGHT if s == LOST else s for n, s in model.state.items()}
        flat = {n: s for start, end, s in board.spans() for n in range(start, end)}
        assert flat == model.state
        assert board.sacked == model.count(SACKED)
        assert board.lost == model.count(LOST)
        chained = set()
        span = board.sentinel.after
        while span is not board.sentinel:
            assert span.state == IN_FLIGHT
            chained |= set(range(span.start, span.end))
            span = span.after
        assert chained == {n for n, s in model.state.items() if s == IN_FLIGHT}


def test_an_ack_costs_what_it_changes_not_what_is_in_flight() -> None:
    """A 4 MB window in batches, one hole, SACKs that grow by two segments: the number of spans stays small."""
    board = Scoreboard(0)
    mss, batch = 1300, 40
    for n in range(75):
        board.transmitted(n * batch * mss, (n + 1) * batch * mss, float(n))
    for n in range(1, 1500):
        board.begin()
        board.sack(mss, mss * (1 + 2 * n))
        assert len(board.spans()) <= 78
    assert board.sacked == 2 * 1499 * mss
