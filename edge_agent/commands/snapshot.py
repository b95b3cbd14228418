"""The frames of one part as messages of their own: whole, lossless, named after the verdict that the part gets."""

from collections.abc import Mapping

from edge_agent.cameras import Frame
from edge_agent.messages import AckReason, Origin
from edge_agent.outbox import Message
from edge_agent.pictures import PictureError, encode_frame


def snapshot(
    origin: Origin, result_id: str, frames: Mapping[str, Frame]
) -> tuple[AckReason | None, str, tuple[Message, ...]]:
    """Why there is no picture (None: there is one), the sentence, and the messages. A large frame takes a while.

    frames: of each camera; each picture is below the topic of its own.
    """
    messages, said = list[Message](), list[str]()
    for camera, frame in frames.items():
        if frame.image is None:
            said.append(frame.error or "The camera gave no picture.")
            continue
        topic = f"{origin.topics.under(camera).of('frame')}/{result_id}"
        try:
            messages.append(Message("image", topic, encode_frame(frame.image)))
        except (PictureError, MemoryError) as error:
            said.append(str(error) or "There is no memory for the picture.")
            continue
        height, width = frame.image.shape[:2]
        said.append(f"{frame.name}, {width} x {height} pixels, is on {topic}.")
    return None if messages else "no_frame", " ".join(said), tuple(messages)
