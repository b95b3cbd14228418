"""`edge_agent check` about the shelf of bundles and about what serves in the file's place."""

import json

import yaml
from line import call, make_line
from shelved import KEY, put, put_other
from tiny_bundle import tiny_model, write_bundle, write_public_key

from edge_agent.bundle import open_bundle
from edge_agent.models.boot import Register, start
from edge_agent.models.judge import Judge


def checked(config):
    """The findings about models, as subject -> (sentence, exit code)."""
    done = call("check", config, "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        each["subject"]: (each["text"], each["exit_code"]) for each in found if each["subject"].startswith("models")
    }


def change(config, **sections):
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **sections}))


def test_a_line_without_a_shelf_hears_nothing_of_it(tmp_path):
    assert checked(make_line(tmp_path, port=1)) == {}


def test_each_bundle_of_the_shelf_is_looked_at(tmp_path):
    config = make_line(tmp_path, port=1, models={"folder": "shelf"})
    assert "can't be listed" in checked(config)["models"][0]
    shelf = tmp_path / "shelf"
    put(shelf, "next", 4)
    put(shelf, "unsigned", 5, key=None)
    put_other(shelf, "cut short", 6, threshold=90.0)
    (put(shelf, "altered", 7) / "model.onnx").write_bytes(b"")
    (shelf / "link").symlink_to(tmp_path / "bundle")
    (shelf / "README").write_text("not a bundle")
    found = checked(config)
    assert found["models"] == ("no bundle can be named: commands.enabled is false", 0)
    assert found["models next"][0].endswith("is whole: dots version 4 (tiny)")
    assert found["models unsigned"][1] == 0
    assert "can't be named" in found["models cut short"][0]
    assert "can't be named" in found["models link"][0]
    assert "changed after export" in found["models altered"][0]
    assert {name for name, (_, code) in found.items() if code} == {"models cut short", "models link", "models altered"}
    commands = {"enabled": True, "issuers": ["engineer"]}
    change(config, commands=commands)
    assert "set public_key, and only signed ones serve" in checked(config)["models"][0]
    write_bundle(tmp_path / "bundle", model=tiny_model(), key=KEY)
    change(config, commands=commands, public_key=str(write_public_key(tmp_path / "key.pub", KEY)))
    found = checked(config)
    assert "models" not in found
    assert "is unsigned" in found["models unsigned"][0]


def test_it_says_what_serves_instead_of_the_files_bundle(tmp_path):
    config = make_line(tmp_path, port=1)

    def serve(name):
        register = Register(tmp_path / "models.json")
        start((None, "top"), tmp_path / name, register, open_bundle, lambda bundle: Judge(bundle, None, None, None))
        return register

    register = serve("bundle")
    assert checked(config) == {}
    new = open_bundle(put(tmp_path, "v4", 4, key=None))
    register.change({(None, "top"): register.get((None, "top")).with_new(new)})
    text, code = checked(config)["models top"]
    assert (text, code) == (f"a command has brought dots version 4: {tmp_path / 'v4'} serves", 0)
    put(tmp_path, "v5", 5, key=None)
    change(config, bundle="v5")
    assert checked(config)["models top"] == ("the file has changed: it takes over from dots version 4", 0)
    put(tmp_path, "v2", 2, key=None)
    change(config, bundle="v2")
    text, code = checked(config)["models top"]
    assert (code, "but version 4 has served here. It is refused;" in text) == (2, True)
    (tmp_path / "models.json").write_text("garbage")
    assert "is damaged" in checked(config)["models"][0]
    assert (tmp_path / "models.json").read_text() == "garbage"
