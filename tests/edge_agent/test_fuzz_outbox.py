"""Whatever happened to the outbox's file: it opens, tells what was replaced, and keeps verdicts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.outbox import Message, Outbox

ROOMY = {"max_rows": 1000, "max_bytes": 10_000_000}


def message(text):
    return Message("result", "line/result", text.encode())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_file(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("outbox") / "outbox.db"
    outbox = Outbox(path, **ROOMY)
    sound = [f"{n:03} {'x' * 50}" for n in range(60)]
    outbox.commit([message(text) for text in sound], keep={"orders": b"1.0"})
    outbox.close()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 99) | st.integers(0, len(content) - 1))
        content[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    for name in ("-wal", "-journal"):
        if data.draw(st.booleans()):
            path.with_name(path.name + name).write_bytes(data.draw(st.binary(max_size=100)))
    outbox = Outbox(path, **ROOMY, memory_rows=100)
    outbox.commit([message("new")])
    rows = outbox.read(after=0, limit=1000)
    outbox.recall()
    texts = [row.payload.decode() for row in rows]
    assert texts[-1] == "new"
    assert set(texts[:-1]) <= set(sound)  # a verdict that was altered is none
    assert texts[:-1] == sorted(texts[:-1])
    outbox.close()
    again = Outbox(path, **ROOMY)
    assert (again.replaced, len(again)) == (None, len(rows))  # no loop
    again.close()
