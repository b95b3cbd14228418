"""One frame of the camera as a message of its own: whole, lossless, named after the verdict that it gets."""

from edge_agent.cameras import Frame
from edge_agent.messages import AckReason, Origin
from edge_agent.outbox import Message
from edge_agent.pictures import PictureError, encode_frame


def snapshot(origin: Origin, result_id: str, frame: Frame) -> tuple[AckReason | None, str, tuple[Message, ...]]:
    """Why there is no picture (None: there is), the sentence, and the message. A large frame takes a while."""
    if frame.image is None:
        return "no_frame", frame.error or "The camera gave no picture.", ()
    topic = f"{origin.topics.of('frame')}/{result_id}"
    try:
        message = Message("image", topic, encode_frame(frame.image))
    except (PictureError, MemoryError) as error:
        return "no_frame", str(error) or "There is no memory for the picture.", ()
    height, width = frame.image.shape[:2]
    return None, f"{frame.name}, {width} x {height} pixels, is on {topic}.", (message,)
