"""GigE Vision and USB3 Vision: colour order, Aravis' fake GigE camera on loopback, and its in-process Fake."""

import shutil
import subprocess
import threading
import time
from contextlib import closing
from functools import partial
from itertools import islice

import numpy as np
import pytest
from camera_frames import frames_until

from edge_agent import clock
from edge_agent.cameras.aravis import TO_RGB, AravisSource, load_aravis, to_rgb
from edge_agent.cameras.frame import CameraError
from edge_agent.cameras.open import open_camera
from edge_agent.cameras.settings import GigeCameraConfig, Usb3CameraConfig
from edge_agent.parts import Trigger
from edge_agent.parts.settings import PartsConfig
from edge_agent.parts.source import make_source

pytest_plugins = ["distribution_gi"]
pytestmark = pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")  # older PyGObject's own
PATIENCE_S = 120.0  # for an overloaded machine
take = partial(frames_until, patience_s=PATIENCE_S)
NUMBERS = {name: number for number, (name, _) in TO_RGB.items()}
MOSAICS = {"BayerRG8": "RGGB", "BayerGR8": "GRBG", "BayerGB8": "GBRG", "BayerBG8": "BGGR"}


@pytest.mark.parametrize("name", MOSAICS)
def test_each_mosaic_gives_red_green_and_blue_in_that_order(name):
    """A uniform colour as a sensor with that filter sees it: first row's first two letters, then the second row's."""
    seen = [{"R": 200, "G": 100, "B": 30}[letter] for letter in MOSAICS[name]]
    data = np.tile(np.array(seen, np.uint8).reshape(2, 2), (6, 8)).tobytes()
    image = to_rgb(data, NUMBERS[name], 16, 12)
    assert image.shape == (12, 16, 3)
    assert (image == [200, 100, 30]).all()


def test_plain_formats_give_red_green_and_blue_in_that_order():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(to_rgb(rgb.tobytes(), NUMBERS["RGB8"], 7, 5), rgb)
    np.testing.assert_array_equal(to_rgb(rgb[..., ::-1].tobytes(), NUMBERS["BGR8"], 7, 5), rgb)
    grey = to_rgb(rgb[..., 0].tobytes(), NUMBERS["Mono8"], 7, 5)
    np.testing.assert_array_equal(grey, np.repeat(rgb[..., :1], 3, axis=2))
    assert to_rgb(rgb.tobytes()[:-1], NUMBERS["RGB8"], 7, 5) is None
    assert to_rgb(rgb.tobytes(), 0x01100007, 7, 5) is None  # Mono16


@pytest.fixture
def aravis(gi_folder, monkeypatch):
    monkeypatch.syspath_prepend(gi_folder)
    try:
        return load_aravis()
    except CameraError as error:
        pytest.skip(str(error))


class FakeGige:
    """Aravis' fake GigE Vision camera on loopback, in a process of its own. `lost`: packets per thousand."""

    id = "127.0.0.1"

    def __init__(self):
        self._program = shutil.which("arv-fake-gv-camera-0.8") or pytest.skip("apt-get install aravis-tools")
        self._process = None

    def start(self, *, lost: int = 0) -> None:
        command = [self._program, "-i", self.id, "-s", "GV7", "-r", str(lost)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def gige(aravis):
    camera = FakeGige()
    yield camera
    camera.kill()


def settings(**changes) -> GigeCameraConfig:
    quick = {"stall_s": 1.0, "open_timeout_s": 10.0, "reconnect_min_s": 0.1, "reconnect_max_s": 0.5}
    return GigeCameraConfig(kind="gige", id=FakeGige.id, **{**quick, **changes})


def sound(frames):
    return [frame for frame in frames if frame.image is not None]


def is_whole(image) -> bool:
    """The fake camera draws a ramp along the diagonal: a stale or missing packet breaks it."""
    return bool((image[1:, :-1] == image[:-1, 1:]).all() and (image[..., 0] == image[..., 2]).all())


def test_free_run_with_exposure_gain_and_rate_and_back_after_a_kill(gige):
    gige.start()
    camera = open_camera(settings(fps=20.0, exposure_us=5000.0, gain_db=3.0, pixel_format="Mono8"))
    steps = []

    def enough(frames):
        if not steps and len(sound(frames)) >= 10:
            steps.append(len(frames))
            gige.kill()
        elif len(steps) == 1 and frames[-1].reason == "stalled":
            steps.append(len(frames))
            gige.start()
        return len(steps) == 2 and len(sound(frames[steps[1] :])) >= 10

    frames = take(camera, enough)
    assert {frame.image.shape for frame in sound(frames)} == {(512, 512, 3)}
    assert all(is_whole(frame.image) for frame in sound(frames))
    assert not {frame.reason for frame in frames} - {None, "stalled"}
    stalled, last = frames[steps[1] - 1], sound(frames[: steps[1]])[-1]
    assert 1.0e9 <= stalled.ts_mono_ns - last.ts_mono_ns < 10e9
    assert "The GigE Vision camera 127.0.0.1 has given no frame for" in stalled.error
    assert camera.counts.reconnects >= 1
    numbers = [int(frame.name) for frame in sound(frames)]
    assert numbers == sorted(set(numbers))


def test_a_software_trigger_is_answered_by_one_frame_each(gige, monkeypatch):
    gige.start()
    triggers, trigger = [], AravisSource.trigger
    monkeypatch.setattr(AravisSource, "trigger", lambda source: (triggers.append(1), trigger(source)))
    camera = open_camera(settings(trigger="software", interval_s=0.1, stall_s=20.0, open_timeout_s=PATIENCE_S))
    frames = take(camera, lambda frames: len(frames) == 8)
    assert [frame.reason for frame in frames] == [None] * 8
    assert [frame.name for frame in frames] == [str(n) for n in range(8)]
    assert len(triggers) in (8, 9)  # the next may be on its way; a free-running camera gives more than it is asked for
    assert camera.counts.dropped == 0


def test_a_message_triggers_the_camera_and_nothing_else_does(gige):
    gige.start()
    camera = open_camera(settings(trigger="software", stall_s=20.0, open_timeout_s=PATIENCE_S))
    source = make_source({"top": camera}, PartsConfig(trigger="mqtt", window_ms=60_000.0))
    with closing(source.parts()) as parts:
        for number in range(4):
            one = Trigger(f"t{number}", clock.utc(), time.monotonic_ns())
            assert source.trigger(one, redelivered=False, too_late=None)
            part = next(parts)
            frame = part.views["top"]
            assert (part.sequence, frame.name, frame.reason) == (number, str(number), None)
            assert frame.ts_mono_ns >= one.ts_mono_ns
    assert camera.counts.frames == 4


@pytest.mark.parametrize("resend", [False, True])  # the fake camera can't resend
def test_a_frame_with_lost_packets_is_unknown_and_never_a_picture(gige, resend):
    gige.start(lost=3)  # of 1000 packets; a frame has 188
    camera = open_camera(settings(fps=30.0, packet_resend=resend, packet_size=1400))
    frames = take(camera, lambda frames: len({frame.reason for frame in frames[-60:]} - {"stalled"}) == 2)
    broken = [frame for frame in frames if frame.reason == "bad_frame"]
    assert broken
    assert all("arrived incomplete" in frame.error and frame.image is None for frame in broken)
    assert sound(frames)
    assert all(is_whole(frame.image) for frame in sound(frames))


@pytest.mark.slow
def test_a_line_that_does_not_trigger_is_no_stall_but_a_camera_that_is_gone_is(gige):
    gige.start()
    camera = open_camera(settings(trigger="hardware", trigger_line="Line0", stall_s=0.2, open_timeout_s=PATIENCE_S))
    connected, connect = threading.Event(), camera._connect

    def connect_and_tell():
        source = connect()
        connected.set()
        return source

    camera._connect = connect_and_tell
    frames = []
    thread = threading.Thread(target=lambda: frames.extend(take(camera, lambda frames: True)))
    thread.start()
    assert connected.wait(PATIENCE_S)
    time.sleep(1.0)
    assert frames == []
    gige.kill()
    thread.join(PATIENCE_S)
    assert [frame.reason for frame in frames] == ["stalled"]
    assert "is lost: it doesn't answer any more" in frames[0].error or "can't be opened" in frames[0].error


@pytest.fixture
def fake(aravis):
    aravis.enable_interface("Fake")
    yield aravis
    aravis.disable_interface("Fake")


def in_process(**changes) -> Usb3CameraConfig:
    return Usb3CameraConfig(kind="usb3", id="Fake_1", **changes)


@pytest.mark.parametrize("name", ["Mono8", "RGB8", *MOSAICS])
def test_each_pixel_format_is_set_and_read(fake, name):
    camera = open_camera(in_process(pixel_format=name, stall_s=20.0, checks={"frozen_frames": None}))
    with closing(camera.frames()) as frames:
        images = [frame.image for frame in islice(frames, 3)]
    assert all(image is not None and image.shape == (512, 512, 3) for image in images)
    grey = [bool((image[..., 0] == image[..., 2]).all()) for image in images]
    assert grey == [name == "Mono8"] * 3


def test_the_trigger_is_set_as_configured(fake):
    for trigger, source in (("software", "Software"), ("hardware", "Line0")):
        opened = AravisSource(in_process(trigger=trigger, trigger_line="Line0"))
        assert opened._camera.get_trigger_source() == source
        assert opened._camera.get_string("TriggerMode") == "On"
        opened.close()
    opened = AravisSource(in_process(fps=25.0, exposure_us=1234.0, gain_db=4.0))
    device = opened._camera
    assert device.get_string("TriggerMode") == "Off"
    assert (device.get_exposure_time(), device.get_gain()) == (1234.0, 4.0)
    assert device.get_frame_rate() == pytest.approx(25.0)
    opened.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"exposure_us": 1.0}, "Fake_1: exposure_us is 1, and the camera takes 10 to 1e\\+07"),
        ({"gain_db": 48.0}, "Fake_1: gain_db is 48, and the camera takes 0 to 10"),
        ({"pixel_format": "BGR8"}, "Fake_1 refuses its settings: .*BGR8"),
        ({"id": "Nobody"}, "Nobody can't be opened \\(.*not found.*\\)\\. Check power, cable and address"),
    ],
)
def test_what_the_camera_cannot_do_is_a_sentence(fake, changes, sentence):
    with pytest.raises(CameraError, match=sentence):
        AravisSource(Usb3CameraConfig(kind="usb3", **{"id": "Fake_1", **changes}))
