"""Judges of one camera for tests of what stands around them: an engine that needs no bundle."""

from edge_agent.commands.model_orders import Workshop
from edge_agent.engines import as_slotted
from edge_agent.messages import Model
from edge_agent.models.boot import Register
from edge_agent.models.judge import Judge, Judges
from edge_agent.models.settings import ModelsConfig
from edge_agent.models.shelf import Shelf
from edge_agent.parts import Part
from edge_agent.parts.source import FrameParts
from edge_agent.pipeline import _prepare

MODEL = Model(name="dots", version=3, digest="0" * 64, system="tiny")


def judge_of(engine, preprocessing, *, bundle=None, model=MODEL):
    return Judge(bundle, as_slotted(engine), model, preprocessing)


def judges_of(engine, preprocessing, *, camera="top", bundle=None, model=MODEL):
    return Judges({(None, camera): judge_of(engine, preprocessing, bundle=bundle, model=model)})


def parts_of(camera, name="top"):
    """Each frame of the camera is a part."""
    return FrameParts(name, camera)


def taken_of(number, frame, judge):
    """The frame, prepared as the part of this number."""
    part = Part(number, frame.captured_at, frame.ts_mono_ns, {}, id=frame.name)
    return _prepare(part, "top", frame, judge)


class IdleEngine:
    """In service, and never asked."""

    name, slots, closed = "idle", 1, False

    def close(self):
        self.closed = True


def workshop_of(folder, /, *, threshold=1.0, appoint=None, **settings):
    """For changes of model; where nothing else is said, a bundle's engine is an idle one."""
    config = ModelsConfig(record=folder / "models.json", **settings)
    shelf, register = Shelf(config.folder, None), Register(config.record)
    appoint = appoint or (lambda bundle, closing: Judge.of(bundle, IdleEngine()))
    return Workshop(config, threshold, shelf, register, appoint)
