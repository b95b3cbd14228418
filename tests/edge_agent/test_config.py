"""The agent's file answers back: file, line, what was found, what would be right; all findings; never a secret."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic_core import PydanticUndefined

from edge_agent.cameras.settings import CameraConfig, FrameChecksConfig, LiveCameraConfig, RtspCameraConfig
from edge_agent.config import ConfigError, read_config

GOOD = """\
device: press-7
bundle: bundles/bottle
topic: {site: plant-1, line: line-2, station: station-3}
cameras:
  top:
    kind: folder
    path: parts
mqtt:
  host: broker.local
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


def findings(folder: Path, text: str) -> list[str]:
    """What is wrong with `text`, without the file's name at the start of each line."""
    with pytest.raises(ConfigError) as caught:
        read_config(write(folder, text))
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{folder / 'agent.yaml'}:") for line in lines)
    return [line.removeprefix(f"{folder / 'agent.yaml'}:") for line in lines]


def test_the_commented_example_is_valid_and_shows_the_defaults(tmp_path):
    example = Path(__file__).parents[2] / "configs" / "agent" / "line.yaml"
    config = read_config(example)
    minimal = read_config(write(tmp_path, GOOD))
    for section in ("engine", "parts", "outbox", "anomaly_maps", "threshold", "health_interval_s", "public_key"):
        shown, default = getattr(config, section), getattr(minimal, section)
        if section == "outbox":
            assert shown.path.name == default.path.name
            shown = shown.model_copy(update={"path": default.path})
        assert shown == default, f"line.yaml says that {section} is {shown}"
    assert config.mqtt.model_copy(update={"host": "broker.local"}) == minimal.mqtt
    commented = example.read_text()
    for section in (config, config.mqtt, config.outbox, config.anomaly_maps, config.engine, config.cameras["top"]):
        for name in type(section).model_fields:
            assert f"{name}:" in commented, f"line.yaml doesn't mention {name}"


def test_relative_paths_start_at_the_file_wherever_the_agent_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    config = read_config(write(tmp_path, GOOD))
    assert config.bundle == tmp_path / "bundles" / "bottle"
    assert config.cameras["top"].path == tmp_path / "parts"
    assert config.outbox.path == tmp_path / "outbox.db"  # a default counts from there too
    absolute = read_config(write(tmp_path, GOOD.replace("path: parts", "path: /data/parts")))
    assert absolute.cameras["top"].path == Path("/data/parts")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    path: parts", "    path: parts\n    lop: 2", "8: cameras.top.lop is not a setting. Did you mean loop?"),
        ("  host:", "  hots:", "9: mqtt.hots is not a setting. Did you mean host?"),
        ("device:", "devise:", "1: devise is not a setting. Did you mean device?"),
        ("bundle: bundles/bottle\n", "", "1: bundle is missing. Add it; configs/agent/line.yaml shows what it means."),
        ("bundle: bundles/bottle", "bundle: {side: b}", "2: bundle: Give a bundle for each of top, and no other; see"),
        ("  host:", "  message_expiry_s: 9\n  host:", "8: mqtt: Set version: 5, or leave message_expiry_s out: 3.1.1"),
        ("    kind: folder\n", "", "5: cameras.top.kind is missing. Set it to folder, video, usb, rtsp, csi,"),
        ("  host: broker.local", "  host: h\n  port: high", "10: mqtt.port is 'high'. Input should be a valid int"),
        ("  host: broker.local", "  host: h\n  port: 70000", "10: mqtt.port is 70000. Input should be less than or eq"),
        ("  host: broker.local", "  host: h\n  version: 4", "10: mqtt.version is 4. Input should be '3.1.1' or '5'."),
        ("press-7", "press 7", "1: device is 'press 7'. It may hold letters, digits, _ and - only; it becomes part of"),
        ("  top:", "  to/p:", "5: cameras.to/p: the camera's name may hold letters, digits, _ and - only; it becomes"),
        ("kind: folder", "kind: webcam", "6: cameras.top.kind is 'webcam'. It may be folder, video, usb, rtsp, csi,"),
        ("mqtt:\n  host: broker.local", "mqtt:", "8: mqtt is empty. It is a section: settings on the lines below"),
        ("device: press-7", "device:", "1: device is empty. Input should be a valid string."),
        ("    path: parts", "    path: parts\n    loop: often", "8: cameras.top.loop is 'often'. Give the number"),
        ("  host: broker.local", "  host: h\n  host: i", "10: mqtt.host is set twice, first in line 9. Keep one."),
        ("  host: broker.local", "  host: h\n  username: u\n  password: p\n  password_file: f", "8: mqtt: Give pass"),
        ("  host: broker.local", "  host: h\n  password: p", "8: mqtt: A password needs a username beside it."),
        ("  host: broker.local", "  host: h\n  tls: {key_file: k}", "10: mqtt.tls: Give both certificate_file and"),
        ("device:", "threshold: .inf\ndevice:", "1: threshold is inf. Input should be a finite number."),
        ("device:", "threshold: 0\ndevice:", "1: threshold is 0. Input should be greater than 0."),
        ("bundles/bottle", "[bottle", "3: not valid YAML: expected ',' or ']', but got ':'. Look at this line and the"),
        ("bundles/bottle", "!!python/object:os.system x", "2: not valid YAML: could not determine a constructor"),
        ("bundles/bottle", "&a [*a]", "2: not valid YAML: the alias contains itself."),
        (GOOD, "", "1: the file is empty. Copy configs/agent/line.yaml and edit it."),
        (GOOD, "- a\n- b\n", "1: the file is not a list of `setting: value` lines. Copy configs/agent/line.yaml"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_line(tmp_path, old, new, expected):
    text = GOOD.replace(old, new)
    assert text != GOOD
    found = findings(tmp_path, text)
    assert any(line.startswith(expected) for line in found), found


def test_all_mistakes_are_listed_not_the_first_alone(tmp_path):
    text = GOOD.replace("press-7", "press 7").replace("host: broker.local", "host: h\n  host: i\n  prot: 1")
    assert [line.split(". ")[0] for line in findings(tmp_path, text)] == [
        "10: mqtt.host is set twice, first in line 9",
        "1: device is 'press 7'",
        "11: mqtt.prot is not a setting",
    ]


def test_more_cameras_than_one_agent_takes_are_refused_with_what_to_do(tmp_path):
    more = "".join(f"  side{n}: {{kind: video, path: v.mp4}}\n" for n in range(8))
    assert findings(tmp_path, GOOD.replace("mqtt:", f"{more}mqtt:")) == [
        "4: cameras has 9 cameras, and one agent inspects with 1 to 8. Start another one for the rest."
    ]


SIDE = "  side: {kind: video, path: v.mp4}\n"


def test_cameras_and_products_get_their_bundles(tmp_path):
    text = GOOD.replace("mqtt:", f"{SIDE}products:\n  can: {{top: lid, side: wall}}\n  jar: jars\nmqtt:")
    config = read_config(write(tmp_path, text))
    default = config.bundles[None, "top"]
    assert {key: path.name for key, path in config.bundles.items()} == {
        (None, "top"): default.name, (None, "side"): default.name,
        ("can", "top"): "lid", ("can", "side"): "wall", ("jar", "top"): "jars", ("jar", "side"): "jars",
    }  # fmt: skip
    assert default.parents[1] == config.bundles["can", "top"].parent == tmp_path
    assert config.camera == "all"
    assert config.client_id.endswith("-press-7-all")


def test_the_example_of_two_cameras_is_valid_and_its_acl_is_shipped():
    folder = Path(__file__).parents[2] / "configs" / "agent"
    config = read_config(folder / "two_cameras.yaml")
    assert set(config.bundles) == {(product, camera) for product in (None, "jar-500") for camera in ("top", "side")}
    tree = f"faultline/v1/{config.topic.site}/{config.topic.line}/{config.topic.station}"
    acl = (folder / "mosquitto.acl").read_text()
    assert f"user {config.mqtt.username}\n" in acl
    assert f"topic read {tree}/{config.camera}/trigger\n" in acl
    assert all(f"topic write {tree}/{camera}/anomaly_map/+\n" in acl for camera in config.cameras)


def test_one_camera_is_as_it_was(tmp_path):
    config = read_config(write(tmp_path, GOOD))
    assert (config.camera, list(config.bundles)) == ("top", [(None, "top")])
    assert (config.parts.trigger, config.parts.named_by) == ("frame", "camera")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            "products: {can: {top: lid}}",
            "11: products: Product can: give a bundle for each of top, side, and no other; see side",
        ),
        ("products: {a/b: lid}", "11: products.a/b is 'lid'. It may hold letters, digits, _ and - only"),
        ("products: {can: 3}", "11: products.can is 3. Input is not a valid path"),
        (
            "parts: {name: side}",
            "11: parts: Name is side, which is one of the cameras; the group needs one of its own.",
        ),
        ("parts: {code: {camera: back}}", "11: parts: Code.camera is back, and the cameras are top, side."),
        ("parts: {id: trigger}", "11: parts: Id is trigger, and only a message can name a part: set trigger: mqtt"),
        ("parts: {triger: mqtt}", "11: parts.triger is not a setting. Did you mean trigger?"),
        ("parts: {window_ms: 0}", "11: parts.window_ms is 0. Input should be greater than 0."),
        ("parts: {trigger: plc}", "11: parts.trigger is 'plc'. Input should be 'frame' or 'mqtt'."),
    ],
)
def test_each_mistake_about_parts_is_named_with_its_line(tmp_path, settings, expected):
    text = GOOD.replace("mqtt:", f"{SIDE}mqtt:") + settings + "\n"
    (found,) = findings(tmp_path, text)
    assert found.startswith(expected), found


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(ConfigError, match=r"agent\.yaml can't be read: No such file or directory\. Copy configs"):
        read_config(tmp_path / "agent.yaml")
    (tmp_path / "agent.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read_config(tmp_path / "agent.yaml")


LOGIN = GOOD + "  username: press-7\n"


@pytest.mark.parametrize("written", ['"{CANARY_PASSWORD}"', "{CANARY_PASSWORD}"])  # quoted, and YAML's trap without
def test_a_password_comes_from_the_environment_and_is_never_echoed(tmp_path, monkeypatch, written):
    monkeypatch.setenv("CANARY_PASSWORD", "canary-5391")
    config = read_config(write(tmp_path, f"{LOGIN}  password: {written}\n"))
    secret = config.mqtt.read_password()
    assert secret is not None
    assert secret.get_secret_value() == "canary-5391"
    assert "canary-5391" not in f"{config!r} {config} {config.model_dump_json()}"
    broken = findings(tmp_path, f"{LOGIN}  password: {written}\n  prot: 7\n  password_file: f\n")
    assert "canary-5391" not in "".join(broken)


def test_a_secret_in_the_wrong_place_is_not_echoed_either(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", "canary-5391")
    assert findings(tmp_path, f'{GOOD}  port: "{{CANARY}}"\n') == [
        "10: mqtt.port is '{CANARY}'. Input should be a valid integer, unable to parse string as an integer."
    ]
    for text in (f"{GOOD}  password: [canary-5391]\n", GOOD + "  password: {inner: canary-5391}\n"):
        assert "canary" not in "".join(findings(tmp_path, text))


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    assert findings(tmp_path, LOGIN + '  password: "{NOT_SET_ANYWHERE}"\n') == [
        "11: mqtt.password uses the environment variable NOT_SET_ANYWHERE, which is not set. "
        "Set it where the agent is started."
    ]


def test_a_password_file_is_read_anew_and_its_absence_is_a_sentence(tmp_path):
    config = read_config(write(tmp_path, f"{LOGIN}  password_file: secret\n"))
    with pytest.raises(ConfigError, match=r"mqtt\.password_file: .*secret can't be read \(No such file"):
        config.mqtt.read_password()
    for password in ("first", "second \n"):
        (tmp_path / "secret").write_text(password)
        found = config.mqtt.read_password()
        assert found is not None
        assert found.get_secret_value() == password.rstrip("\n")


def test_an_environment_variable_may_be_part_of_a_value_and_becomes_a_number(tmp_path, monkeypatch):
    monkeypatch.setenv("SITE_HOST", "broker")
    monkeypatch.setenv("SITE_PORT", "8883")
    text = GOOD.replace("host: broker.local", 'host: "{SITE_HOST}.plant.example"\n  port: "{SITE_PORT}"')
    config = read_config(write(tmp_path, text))
    assert (config.mqtt.host, config.mqtt.port) == ("broker.plant.example", 8883)


EXAMPLES = {
    "usb": "{kind: usb, device: /dev/video2, width: 1280, height: 720, pixel_format: MJPG}",
    "rtsp": '{kind: rtsp, url: "rtsp://operator:canary-5391@10.0.0.7:554/stream"}',
    "csi": "{kind: csi, exposure_us: [500, 900], gain: [1, 4]}",
    "gstreamer": '{kind: gstreamer, pipeline: "rtspsrc location=rtsp://h/x user-pw=canary-5391 ! decodebin"}',
    "gige": "{kind: gige, id: 10.0.0.8, trigger: hardware, trigger_line: Line2, exposure_us: 500, gain_db: 3}",
    "usb3": "{kind: usb3, pixel_format: BayerRG8, fps: 20}",
}
KINDS = get_args(get_args(CameraConfig)[0])


def with_camera(section: str) -> str:
    return GOOD.replace("    kind: folder\n    path: parts\n", "").replace("  top:\n", f"  top: {section}\n")


@pytest.mark.parametrize("kind", EXAMPLES)
def test_each_kind_of_live_camera_is_read_and_shows_no_secret(tmp_path, kind):
    config = read_config(write(tmp_path, with_camera(EXAMPLES[kind])))
    assert config.cameras["top"].kind == kind
    assert isinstance(config.cameras["top"], LiveCameraConfig)
    assert "canary" not in f"{config!r} {config} {config.model_dump_json()}"


def test_the_commented_example_names_every_setting_of_every_kind_with_its_default():
    """Of the settings with a plain default; those that stay as the camera is set show an example instead."""
    text = (Path(__file__).parents[2] / "configs" / "agent" / "line.yaml").read_text()
    text = text.split("\ncameras:", 1)[1].split("\nengine:", 1)[0]
    assert len(KINDS) == len(EXAMPLES) + 2
    for model in (*KINDS, FrameChecksConfig):
        for name, field in model.model_fields.items():
            shown = [yaml.safe_load(value) for value in re.findall(rf"^ *#? *{name}: ?([^#\n]*)", text, re.MULTILINE)]
            assert shown, f"line.yaml doesn't mention {name} of {model.__name__}"
            default = field.default
            plain = isinstance(default, bool | int | float | str) and default is not PydanticUndefined
            if plain and name not in ("kind", "device"):
                assert default in shown, f"line.yaml shows {name}: {shown}; {model.__name__} has {default}"
    assert "(rtsp, gstreamer: 250)" in text
    assert RtspCameraConfig.model_fields["checks"].default.frozen_frames == 250


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{kind: usb, width: 640}", "5: cameras.top: Give both width and height, or neither."),
        ("{kind: usb, device: cam0}", "5: cameras.top.device is 'cam0'."),
        ("{kind: usb, device: -1}", "5: cameras.top.device is -1."),
        ("{kind: rtsp, url: 10.0.0.7}", '5: cameras.top.url: Give an address such as "rtsp://USER:{PASSWORD}@HOST'),
        ('{kind: rtsp, url: "http://u:canary@h/"}', '5: cameras.top.url: Give an address such as "rtsp://USER'),
        ("{kind: rtsp, url: [canary]}", "5: cameras.top.url: Input should be a valid string."),
        ("{kind: rtsp}", "5: cameras.top.url is missing. Add it; configs/agent/line.yaml shows what it means."),
        ('{kind: gstreamer, pipeline: " "}', "5: cameras.top.pipeline: Give a GStreamer pipeline such as: v4l2src"),
        ("{kind: csi, gain: [4, 1]}", "5: cameras.top.gain is a list. Give [least, most], both above 0; equal ones"),
        ("{kind: gige, triger: software}", "5: cameras.top.triger is not a setting. Did you mean trigger?"),
        ("{kind: gige, trigger: softwre}", "5: cameras.top.trigger is 'softwre'. Input should be 'free_run'"),
        ("{kind: gige, trigger: hardware, fps: 5}", "5: cameras.top: A triggered camera has the rate of its triggers:"),
        ("{kind: gige, interval_s: 5}", "5: cameras.top: Only the agent's own trigger has an interval_s: leave"),
        ("{kind: gige, pixel_format: Mono12}", "5: cameras.top.pixel_format is 'Mono12'. Input should be 'Mono8', 'Ba"),
        ("{kind: usb3, packet_size: 1400}", "5: cameras.top.packet_size is not a setting."),
        ("{kind: usb, stall_s: 0}", "5: cameras.top.stall_s is 0. Input should be greater than 0."),
        ("{kind: usb, reconnect_max_s: 0.5}", "5: cameras.top: The longest wait, reconnect_max_s, is below the sho"),
        ("{kind: usb, checks: {frozen_frames: 1}}", "5: cameras.top.checks.frozen_frames is 1. Input should be gre"),
        ("{kind: usb, checks: {blak_level: 1}}", "5: cameras.top.checks.blak_level is not a setting. Did you mean bl"),
        ("{kind: usb, checks: {sharpness_min: often}}", "5: cameras.top.checks.sharpness_min is 'often'. Give the lea"),
        ("{kind: usb, checks: {sharpness_min: -1}}", "5: cameras.top.checks.sharpness_min is -1. Give the least vari"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_camera_is_named_and_no_address_is_echoed(tmp_path, section, expected):
    found = findings(tmp_path, with_camera(section))
    assert any(line.startswith(expected) for line in found), found
    assert "canary" not in "".join(found)
