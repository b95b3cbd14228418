"""Whatever the agent's file holds: a configuration, or a ConfigError of whole sentences, in bounded time."""

import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.config import AgentConfig, ConfigError, read_config
from edge_agent.parts.settings import PartsConfig

SOUND = {
    "device": "press-7",
    "bundle": "bundle",
    "topic": {"site": "plant", "line": "l1", "station": "s1"},
    "cameras": {"top": {"kind": "folder", "path": "parts"}},
    "mqtt": {"host": "127.0.0.1", "port": 1883, "tls": {"ca_file": "ca.pem"}},
    "commands": {"enabled": True, "issuers": ["engineer"], "threshold": {"min": 0.8}},
    "parts": {"trigger": "frame"},
    "outbox": {"max_rows": 1000},
}
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=8), st.dates(),
    st.sampled_from([10**400, -1, 0, float("nan"), float("inf"), "{HOME}", "{NOT_SET_9}", "{}", "/", "\0", "a/b"]),
)  # fmt: skip
KEYS = st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.sampled_from(["device", "mqtt", "kind", "top"]))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
FUNCTION_SCOPED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(value, path=()):
    """Where something can be put into a tree of dicts: an existing setting, or a new one beside it."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from places(inner, (*path, key))


def put(tree, path, value):
    if not path:
        return value
    return {**tree, path[0]: put(tree.get(path[0]) if len(path) > 1 else None, path[1:], value)}


def read(path, data):
    """The outcome, within seconds."""
    path.write_bytes(data)
    began = time.monotonic()
    try:
        assert isinstance(read_config(path), AgentConfig)
    except ConfigError as error:
        for line in str(error).splitlines():
            assert str(path) in line
    assert time.monotonic() - began < 10.0


@FUNCTION_SCOPED
@given(data=st.data())
def test_any_value_in_any_place(tmp_path, data):
    path = data.draw(st.sampled_from(list(places(SOUND))))
    if data.draw(st.booleans()):
        path = (*path[:-1], data.draw(KEYS))
    read(tmp_path / "agent.yaml", yaml.safe_dump(put(SOUND, path, data.draw(VALUES)), allow_unicode=True).encode())


@FUNCTION_SCOPED
@given(st.data())
def test_any_bytes_in_a_sound_file(tmp_path, data):
    text = bytearray(yaml.safe_dump(SOUND).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 6))] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b"&a ", b"*a", b"<<: *a", b"!!python/object:x", b"? ", b"- ",
                                                     b"{", b"[", b"%", b"|", b"!!binary ", b"\t", b"---\n"])
        )  # fmt: skip
    read(tmp_path / "agent.yaml", bytes(text))


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(12)),
        "device: " + "[" * 5000,
        "device: " + "{a: " * 3000,
        "device: &a [*a]\n",
        "mqtt: &a {host: *a}\n",
        "a" * 2_000_000,
        "device: !!python/object/apply:os.system ['true']\n",
        "? [a, b]\n: c\n",
        "? {a: b}\n: c\n",
        "<<: 5\n",
        "<<: [5]\n",
        "device: 2026-99-99\n",
        "device: 1:99:99\n",
        "x: !!binary '====='\n",
        "x: !!int ''\nx: !!float ''\n",
        "x: !!timestamp ''\n",
        "\0",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
    ],
    ids=range(18),
)
def test_files_that_are_made_to_hurt(tmp_path, text):
    path = tmp_path / "agent.yaml"
    read(path, text.encode())
    with pytest.raises(ConfigError):
        read_config(path)


def test_the_sound_file_is_sound(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(SOUND))
    assert read_config(path).parts == PartsConfig()
