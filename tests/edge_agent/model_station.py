"""A command desk whose record names version 3 of a bundle, with 4 and 5 on the shelf; engines are idle ones."""

from judging import IdleEngine, workshop_of
from served import wait_until
from shelved import put
from station import ORIGIN, Station
from tiny_bundle import manifest_fields

from edge_agent.bundle import open_bundle
from edge_agent.messages import ImageSize, Result
from edge_agent.models.boot import start
from edge_agent.models.judge import Judge, Judges

SIZE = ImageSize(width=32, height=24)


def result(model, sequence=0, *, verdict="pass", reason=None, image=SIZE):
    return Result(
        **ORIGIN.ids(), ts="", result_id=ORIGIN.result_id(sequence), sequence=sequence, part="1", ts_mono_ns=0,
        time_sync="ok", verdict=verdict, reason=reason, detail=None, image_score=None, threshold=1.0, raw_score=None,
        model=model, image=image, latency_ms=0.0,
    )  # fmt: skip


class Line(Station):
    """A station whose record names version 3, with 4 and 5 on the shelf; engines are idle ones."""

    def __init__(self, folder, *, crop=None, cameras=("top",), settings=None, **config):
        shelf = folder / "shelf"
        preprocessing = {**manifest_fields()["preprocessing"], "crop": crop}
        for version in (3, 4, 5):
            put(shelf, f"v{version}", version, preprocessing=preprocessing, key=None)
        self.engines, self.trouble, self.first = [], None, lambda closing: None
        self.shelf, self.settings, self.cameras = shelf, settings or {}, cameras
        super().__init__(folder, **config)

    def appoint(self, bundle, closing=None):
        self.first(closing)
        if self.trouble is not None and bundle.manifest.version > 3:
            raise self.trouble
        self.engines.append(IdleEngine())
        return Judge.of(bundle, self.engines[-1])

    def start(self):
        """As the agent does: who serves by the record, then the desk; and a first frame of each camera."""
        self.workshop = workshop_of(self.shelf.parent, folder=self.shelf, appoint=self.appoint, **self.settings)
        shared = {}
        for camera in self.cameras:
            begun = start((None, camera), self.shelf / "v3", self.workshop.register, open_bundle, self.appoint)
            shared[None, camera] = next(iter(shared.values())) if shared else begun.judge
        self.bundle, self.judges = begun.judge.bundle, Judges(shared)
        super().start()
        for camera in self.cameras:
            self.see(camera)

    def see(self, camera="top", **changes):
        judge = self.judges.in_service(None, camera)
        said = result(judge.model, **changes)
        self.desk.note(said.model_copy(update={"camera": camera}))
        self.desk.attend(self.desk.settled())

    def finish(self, command, **arguments):
        """The last word on a command that takes a while."""
        sent = self.request(command, arguments=arguments)
        if (answer := self.ask(sent))["status"] != "accepted":
            return answer

        def ended():
            self.desk.attend(self.desk.settled())
            return self.acks[-1]["command_id"] == sent["command_id"] and self.acks[-1]["status"] != "accepted"

        wait_until(ended)
        return self.acks[-1]

    @property
    def version(self):
        return self.judges.in_service(None, self.cameras[0]).model.version

    def set_roi(self, *box, **arguments):
        return self.ask(
            self.request(
                "set_roi", arguments={**dict(zip(("x", "y", "width", "height"), box, strict=False)), **arguments}
            )
        )
