"""Sessions with the broker, one after the other, for ever.

Each session is a fresh MQTT client that remembers nothing: what must survive an outage is in the outbox alone.
"""

import logging
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.config import ConfigError, MqttConfig
from edge_agent.identity import Identity

log = logging.getLogger(__name__)

JITTER = random.Random()  # a generator of its own: nobody else draws from it, or seeds it

CONNACK_TIMEOUT_S = 10.0
STABLE_S = 10.0  # a session that lasted so long ends an outage; shorter ones keep the back-off growing

RECEIVED_BYTES = 4096  # of a command; longer ones are not kept
STATE_BYTES = 65536  # of a state; one that is longer is none of ours
WAITING = 64  # commands that nobody has taken yet; more are counted only

Status = Literal["connecting", "connected", "refused", "certificate", "unreachable"]


class Outcome(NamedTuple):
    """How an attempt to connect ended; `text` is a sentence."""

    status: Status
    text: str


class Acknowledged(NamedTuple):
    """The broker's answer to one message: taken, or why not (MQTT 5 only)."""

    mid: int
    refused: str | None


class Received(NamedTuple):
    """A message from the broker, as far as the agent takes any in."""

    topic: str
    payload: bytes  # empty where it is larger than RECEIVED_BYTES
    size: int
    retained: bool
    monotonic: float  # when it came
    expiry_s: int | None = None  # MQTT 5: how much longer its sender wants it to be valid
    response_topic: str | None = None  # MQTT 5
    correlation: bytes | None = None  # MQTT 5
    dup: bool = False  # the broker may have sent it before


class Will(NamedTuple):
    """What the broker publishes, retained, when the agent vanishes without a goodbye."""

    topic: str
    payload: bytes


class Session:
    """One connection, from the broker's consent to its end. `publish` is called by one thread only."""

    def __init__(self, client: mqtt.Client, version: str, expiry_s: int | None = None):
        self._client, self._version, self._expiry_s = client, version, expiry_s
        self.tells_refusals = version == "5"  # before, some brokers acknowledge what they refuse, and hang up
        self.acknowledged: deque[Acknowledged] = deque()  # filled by the network thread

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        content_type: str = "application/json",
        correlation: bytes | None = None,
    ) -> int:
        """Hand over at QoS 1 without waiting; the value is the message id that its Acknowledged will carry."""
        properties = None
        if self._version == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = content_type
            if self._expiry_s is not None and not retain:
                properties.MessageExpiryInterval = self._expiry_s
            if correlation is not None:
                properties.CorrelationData = correlation
        return self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).mid


class Connection:
    """Keeps a session open; reconnects with exponential back-off and jitter, and logs once per outage.

    wake: called from other threads, must return at once, whenever `session`, its `acknowledged` or what `take` gives
    has changed. listen: a topic filter; what comes there is for `take`. hear: a topic, and who gets what comes there at
    once, in the network's thread. own_state: where this agent publishes its state; what others say there is for
    `identity`, and while it is contested the back-off doesn't start anew.
    """

    def __init__(
        self,
        config: MqttConfig,
        client_id: str,
        *,
        will: Will | None,
        wake: Callable[[], None],
        listen: str | None = None,
        hear: tuple[str, Callable[[Received], None]] | None = None,
        own_state: str | None = None,
        identity: Identity | None = None,
    ):
        self._config, self._client_id, self._will, self._wake = config, client_id, will, wake
        self._hear = hear
        self._listen, self._own_state, self._identity = listen, own_state, identity or Identity("")
        self._asked: dict[int, str] = {}  # topic filters of subscriptions that wait for an answer, by message id
        self._asking = threading.Lock()
        self._received: deque[Received] = deque()  # filled by the network thread
        self.dropped = 0  # messages that came while too many were waiting
        self.session: Session | None = None
        self.outcome = Outcome("connecting", f"connecting to {config.host}:{config.port}")
        self._attempted = threading.Event()
        self._closing = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection", daemon=True)

    def start(self, wait_s: float = 0.0) -> None:
        """Begin to connect; return after the first attempt has ended, or after `wait_s`."""
        self._thread.start()
        self._attempted.wait(wait_s)

    def take(self) -> list[Received]:
        """What has come on the topics of `listen` since the last call."""
        taken = []
        while self._received:
            taken.append(self._received.popleft())
        return taken

    def attempt(self) -> Outcome:
        """Connect once, say how it went, and part again."""
        try:
            client, answers = self._client()
        except ConfigError as error:
            return Outcome("refused", str(error))
        outcome = self._open(client, answers)
        client.disconnect()
        client.loop_stop()
        return outcome

    def close(self, timeout_s: float = 2.0) -> None:
        """Say goodbye where there is a session, so that the broker forgets the will, and end."""
        self._closing.set()
        self._lost.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            started = time.monotonic()
            outcome = self._hold_session()
            if time.monotonic() - started > STABLE_S and not self._identity.contested:
                attempt = 0
            self._note(outcome)
            limit = min(self._config.reconnect_max_s, self._config.reconnect_min_s * 2.0 ** min(attempt, 30))
            attempt += 1
            self._closing.wait(JITTER.uniform(0.5, 1.0) * limit)

    def _hold_session(self) -> Outcome:
        """Connect, stay until the connection ends, and say how it ended or why it never began."""
        try:
            client, answers = self._client()
        except ConfigError as error:
            return Outcome("refused", str(error))
        self._lost = threading.Event()
        if self._closing.is_set():
            return self.outcome
        outcome = self._open(client, answers)
        if outcome.status == "connected":
            session = Session(client, self._config.version, self._config.message_expiry_s)
            client.on_publish = self._on_publish(session)
            self._identity.session_began()
            self._subscribe(client)
            self.session = session
            self._note(outcome)
            self._wake()
            self._lost.wait()
            self.session = None
            client.on_publish = None  # or client and session would keep each other, and two sockets, for a while
            self._wake()
            outcome = Outcome("unreachable", f"The connection to {self._where} was lost.")
        client.disconnect()
        client.loop_stop()
        return outcome

    @property
    def _where(self) -> str:
        return f"the broker {self._config.host}:{self._config.port}"

    def _open(self, client: mqtt.Client, answers: "deque[Any]") -> Outcome:
        """Ask for a connection and wait for the broker's answer."""
        arrived = threading.Event()

        def on_connect(client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
            answers.append(reason)
            arrived.set()

        def on_disconnect(client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
            if str(reason) == "Session taken over":
                self._identity.session_taken_over()
            arrived.set()
            self._lost.set()

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        try:
            # paho notices a dead peer after twice its keep-alive; ours is a promise of 1.5 times
            client.connect(self._config.host, self._config.port, max(2, self._config.keepalive_s * 2 // 3))
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            return Outcome(
                "certificate",
                f"No encrypted connection to {self._where}: {reason}. "
                "Check mqtt.tls.ca_file, and that the broker's certificate names this host and hasn't expired.",
            )
        except OSError as error:
            return Outcome(
                "unreachable",
                f"{self._where[0].upper()}{self._where[1:]} can't be reached ({error.strerror or error}). "
                "Check mqtt.host and mqtt.port, the network, and that the broker runs.",
            )
        client.loop_start()
        arrived.wait(CONNACK_TIMEOUT_S)
        if not answers:
            return Outcome(
                "unreachable",
                f"{self._where[0].upper()}{self._where[1:]} takes connections but doesn't answer as an MQTT broker. "
                "Check mqtt.port, and mqtt.tls where the port wants encryption.",
            )
        if answers[0].is_failure:
            return Outcome("refused", f"The broker refuses the login: {_refusal(str(answers[0]), self._config)}")
        return Outcome("connected", f"connected to {self._where}")

    def _client(self) -> "tuple[mqtt.Client, deque[Any]]":
        config = self._config
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5 if config.version == "5" else mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(config.window + 16)  # the publisher keeps to the window; this is no second one
        if config.username is not None:
            password = config.read_password()
            client.username_pw_set(config.username, password.get_secret_value() if password else None)
        if config.tls is not None:
            tls = config.tls
            try:
                client.tls_set(
                    ca_certs=str(tls.ca_file) if tls.ca_file else None,
                    certfile=str(tls.certificate_file) if tls.certificate_file else None,
                    keyfile=str(tls.key_file) if tls.key_file else None,
                )
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"mqtt.tls: the certificate files can't be read ({error}). Give PEM files that exist."
                ) from None
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        return client, deque()

    def _on_publish(self, session: Session) -> Callable[..., None]:
        def on_publish(client: mqtt.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
            session.acknowledged.append(Acknowledged(mid, str(reason) if reason.is_failure else None))
            self._wake()

        return on_publish

    def _subscribe(self, client: mqtt.Client) -> None:
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        with self._asking:
            self._asked = {}
            for topic in (self._own_state, self._listen, self._hear and self._hear[0]):
                if topic is not None and (mid := self._ask(client, topic)) is not None:
                    self._asked[mid] = topic

    def _ask(self, client: mqtt.Client, topic: str) -> int | None:
        if self._config.version != "5":
            return client.subscribe(topic, qos=1)[1]
        # retained commands and triggers keep their flag, also when they come live: the broker wouldn't say so otherwise
        options = SubscribeOptions(qos=1, retainAsPublished=topic != self._own_state)  # type: ignore[no-untyped-call]
        return client.subscribe(topic, options=options)[1]

    def _on_subscribe(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: "list[Any]", properties: Any
    ) -> None:
        if not any(reason.is_failure for reason in reasons):
            return
        with self._asking:
            topic = self._asked.get(mid)
        if topic is not None and topic == self._own_state:
            log.warning(
                "The broker lets this user not read %s, so a second agent of the same name would go unnoticed. "
                "Allow it to read there.",
                self._own_state,
            )
        elif self._hear is not None and topic == self._hear[0]:
            log.error("The broker lets this user read no triggers on %s. Allow it to read there.", topic)
        else:
            log.warning(
                "The broker lets this user read no commands on %s. Allow it to read there, or do without commands.",
                self._listen,
            )

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            if message.topic == self._own_state:
                self._identity.saw(bytes(message.payload[:STATE_BYTES]), retained=bool(message.retain))
                self._wake()
                return
            received = _received(message)
            if self._hear is not None and message.topic == self._hear[0]:
                self._hear[1](received)
                return
        except Exception as error:  # an exception in here would end paho's thread, and with it the session
            log.debug("A message can't be read: %s", error)
            received = Received("", b"", 0, False, time.monotonic())
        if len(self._received) < WAITING:
            self._received.append(received)
        else:
            self.dropped += 1
        self._wake()

    def _note(self, outcome: Outcome) -> None:
        """Log what is new: one line when an outage begins or changes its nature, one when it is over."""
        before, self.outcome = self.outcome.status, outcome
        self._attempted.set()
        if self._closing.is_set() or outcome.status == before:
            return
        if outcome.status == "connected":
            log.info("%s", outcome.text[0].upper() + outcome.text[1:] + ".")
        elif outcome.status == "unreachable":
            log.warning("%s Verdicts wait in the outbox; trying again until it is back.", outcome.text)
        else:
            log.error("%s Verdicts wait in the outbox; trying again until it is put right.", outcome.text)


def probe(config: MqttConfig, client_id: str) -> Outcome:
    """One attempt under another client id, so that a running agent keeps its session; nothing is published."""
    return Connection(config, f"{client_id}-check", will=None, wake=lambda: None).attempt()


def _received(message: mqtt.MQTTMessage) -> Received:
    size = len(message.payload)
    properties = getattr(message, "properties", None)
    return Received(
        message.topic,
        bytes(message.payload) if size <= RECEIVED_BYTES else b"",
        size,
        bool(message.retain),
        time.monotonic(),
        getattr(properties, "MessageExpiryInterval", None),
        getattr(properties, "ResponseTopic", None),
        getattr(properties, "CorrelationData", None),
        bool(message.dup),
    )


def _refusal(reason: str, config: MqttConfig) -> str:
    if reason in ("Bad user name or password", "Not authorized"):
        who = f"user {config.username}" if config.username else "no username was given"
        return f"{reason} ({who}). Check mqtt.username and mqtt.password_file, and the broker's list of users."
    if reason == "Unsupported protocol version":
        return f"{reason}. Set mqtt.version to the version that the broker speaks (3.1.1 or 5)."
    return f"{reason}. The broker's own log says more."
