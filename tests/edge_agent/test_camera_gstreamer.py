"""GStreamer: real pipelines in a process of this test's, rows with padding, and the Jetson's pipeline as text."""

import numpy as np
import pytest
from camera_frames import frames_until
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cameras.frame import CameraError
from edge_agent.cameras.gstreamer import csi_pipeline, load_gstreamer, pixels, with_sink
from edge_agent.cameras.open import open_camera
from edge_agent.cameras.redact import redact
from edge_agent.cameras.settings import CsiCameraConfig, GStreamerCameraConfig

pytest_plugins = ["distribution_gi"]
pytestmark = pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")  # older PyGObject's own
QUICK = {"stall_s": 1.0, "open_timeout_s": 30.0, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2}


@pytest.fixture
def gstreamer(gi_folder, monkeypatch):
    monkeypatch.syspath_prepend(gi_folder)
    try:
        return load_gstreamer()
    except CameraError as error:
        pytest.skip(str(error))


def take(pipeline, enough, **changes):
    config = GStreamerCameraConfig(kind="gstreamer", pipeline=pipeline, **{**QUICK, **changes})
    return frames_until(open_camera(config), enough)


SIZE = "video/x-raw,width=322,height=24"  # 322 pixels are no multiple of four bytes, so rows are padded


@pytest.mark.parametrize(
    "rest", [SIZE, f"{SIZE},format=BGR ! appsink", f"{SIZE},format=RGB ! queue ! appsink name=mine sync=false"]
)
def test_a_pipeline_gives_rgb_whatever_its_sink_and_width(gstreamer, rest):
    source = "videotestsrc is-live=true pattern=ball background-color=0xFFFF0000"
    frame = take(f"{source} ! {rest}", lambda frames: frames[-1].image is not None)[-1]
    assert frame.image.shape == (24, 322, 3)
    assert np.median(frame.image.reshape(-1, 3), axis=0).tolist() == [255, 0, 0]


def test_a_stream_that_ends_or_fails_is_tried_again_and_says_why(gstreamer):
    live = "videotestsrc num-buffers=2 pattern=snow ! video/x-raw,width=64,height=48"
    frames = take(live, lambda frames: len(frames) == 5)
    assert sum(frame.image is not None for frame in frames) >= 3  # of at least two connections
    broken = "rtspsrc location=rtsp://operator:canary-5391@127.0.0.1:9/x ! decodebin"
    frames = take(broken, lambda frames: "broke down" in frames[-1].error, open_timeout_s=0.5, stall_s=0.2)
    assert "The GStreamer camera broke down: " in frames[-1].error
    wrong = "rtspsrc location=rtsp://operator:canary-5391@127.0.0.1/x user-pw=canary-5391 colour=3 ! decodebin"
    more = take(wrong, lambda frames: True, open_timeout_s=0.2)
    assert 'the pipeline can\'t be built: no property "colour" in element' in more[0].error
    more += take("videotestsrc ! fakesink ! appsink", lambda frames: True, open_timeout_s=0.2)
    more += take("videotestsrc ! video/x-raw,format=I420 ! appsink", lambda frames: True, open_timeout_s=0.5)
    assert "gives frames in I420. Put `videoconvert ! video/x-raw,format=RGB` before the appsink" in more[-1].error
    assert not any("canary" in str(frame.error) for frame in frames + more)


def test_a_frozen_stream_is_unknown(gstreamer):
    still = "videotestsrc is-live=true pattern=smpte100 ! video/x-raw,width=64,height=48,framerate=30/1"
    frames = take(still, lambda frames: len(frames) == 3, checks={"frozen_frames": 5}, stall_s=30.0)
    assert [frame.reason for frame in frames] == [None, "frozen", "frozen"]


@given(height=st.integers(1, 9), width=st.integers(1, 9), padding=st.integers(0, 5), channels=st.sampled_from([1, 3]))
def test_padding_of_rows_is_no_pixel(height, width, padding, channels):
    shape = (height, width) if channels == 1 else (height, width, channels)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    rows = np.pad(image.reshape(height, -1), ((0, 0), (0, padding)), constant_values=7)
    np.testing.assert_array_equal(pixels(rows.tobytes(), width, height, channels), image)
    if padding == 0:
        assert pixels(rows.tobytes()[:-1], width, height, channels) is None


def test_the_agents_sink_is_added_where_there_is_none():
    assert with_sink("v4l2src ! videoconvert ! ").startswith(
        "v4l2src ! videoconvert ! videoconvert ! video/x-raw,format"
    )
    assert with_sink("v4l2src ! appsink name=a") == "v4l2src ! appsink name=a"
    assert with_sink("filesrc location=appsink.mp4 ! decodebin").endswith("sync=false")


def test_the_jetsons_pipeline_says_what_is_configured():
    plain = csi_pipeline(CsiCameraConfig(kind="csi"))
    assert plain == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1,format=NV12 "
        "! nvvidconv flip-method=0 ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=RGB "
        "! appsink max-buffers=2 drop=false sync=false"
    )
    fixed = CsiCameraConfig(kind="csi", sensor_id=1, exposure_us=(500, 500), gain=(1, 4.5), flip=2, fps=60)
    assert csi_pipeline(fixed).startswith(
        'nvarguscamerasrc sensor-id=1 exposuretimerange="500000 500000" gainrange="1 4.5" ! video/x-raw(memory:NVMM)'
    )


@given(secret=st.text(st.characters(categories=["L", "N"]), min_size=8))
def test_no_login_is_shown(secret):
    for text in (
        f"rtsp://user:{secret}@10.0.0.7:554/stream?channel=1",
        f"rtsp://10.0.0.7/stream?password={secret}&x=1",
        f'could not set property "location" to "rtsp://{secret}:x@host/y"',
        f"rtspsrc user-id=u user-pw={secret} ! decodebin",
        f"rtspsrc user-pw='{secret} and more' ! decodebin",
    ):
        assert secret not in redact(text)
    assert redact("rtsp://10.0.0.7:554/stream") == "rtsp://10.0.0.7:554/stream"
