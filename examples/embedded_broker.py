"""An MQTT broker inside this process, for trying things out: MQTT 3.1.1, no password, this machine only."""

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any

START_S, STOP_S = 60.0, 5.0  # importing it takes seconds on a busy machine


class BrokerFailed(RuntimeError):
    """The broker did not start; the text says why."""


class EmbeddedBroker:
    """`with EmbeddedBroker() as broker: ...` serves on 127.0.0.1, port `broker.port`, from a thread of its own."""

    def __init__(self) -> None:
        self.port = 0
        self._started: Future[int] = Future()
        self._stopping: asyncio.Event
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="broker", daemon=True)

    def __enter__(self) -> "EmbeddedBroker":
        # amqtt logs every client that leaves as a warning; what matters reaches us as an exception.
        logging.getLogger("amqtt").setLevel(logging.CRITICAL)
        logging.getLogger("transitions").setLevel(logging.CRITICAL)
        self._thread.start()
        try:
            self.port = self._started.result(START_S)
        except TimeoutError:
            raise BrokerFailed(f"The embedded broker was not ready after {START_S:.0f} s. Start it again.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_S)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except Exception as error:
            if not self._started.done():
                self._started.set_exception(BrokerFailed(f"The embedded broker did not start: {error}"))
        finally:
            self._loop.close()

    async def _run(self) -> None:
        from amqtt.broker import Broker

        self._stopping = asyncio.Event()
        config: dict[str, Any] = {
            "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}},  # 0: a port that is free
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        broker = Broker(config)
        await broker.start()
        instance = broker._servers["default"].instance  # amqtt has no other way to tell the port it was given
        self._started.set_result(instance.sockets[0].getsockname()[1])
        await self._stopping.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(broker.shutdown(), STOP_S - 1)
