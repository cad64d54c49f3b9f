"""The mailbox of a dispatcher: it answers as the worker of each class that it serves, and as itself
to a command that names it.

All dispatchers of a class carry out a command to its worker; one of them answers it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from celery.utils.collections import AttributeDict
from celery.utils.log import get_logger
from kombu.matcher import match
from kombu.pidbox import Node

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.names import worker_name

logger = get_logger(__name__)


class Speaking(Protocol):
    """The classes that a dispatcher serves, and those for which it answers."""

    @property
    def classes(self) -> Mapping[str, GpuClass]: ...
    @property
    def speaks(self) -> Collection[str]: ...


class Inspecting(Protocol):
    """Answers questions about jobs in its thread."""

    def soon(self, answer: Callable[[], object]) -> bool:
        """Have a question answered. False: too many wait."""
        ...


class Dispatcher(Protocol):
    """What the mailbox needs of a dispatcher."""

    @property
    def workers(self) -> Speaking: ...
    @property
    def inspection(self) -> Inspecting: ...


class ClassMailbox(Node):
    """Celery's mailbox with several names.

    Args:
        plain: the mailbox that Celery has made.
        handlers: name → handler of each command.
        per_class: the commands that are carried out for each class by itself. The others are
            carried out once, and have one answer for all names.
        reading: those of them that only ask, and read Redis for it.
        dispatcher: returns the dispatcher.
    """

    def __init__(
        self,
        plain: Node,
        handlers: Mapping[str, Callable[..., Any]],
        per_class: Collection[str],
        reading: Collection[str],
        dispatcher: Callable[[], Dispatcher],
    ) -> None:
        super().__init__(plain.hostname, plain.state, plain.channel, handlers, plain.mailbox)
        self._app = plain.state.app
        self._per_class = per_class
        self._reading = reading
        self._dispatcher = dispatcher

    def listen(self, *args: Any, **kwargs: Any) -> Any:
        """Listen where the application sends commands by now."""
        self.mailbox = self._app.control.mailbox
        return super().listen(*args, **kwargs)

    def handle_message(self, body: Any, message: Any = None) -> None:
        """Carry out a command if it names this dispatcher or one of its classes, or all workers."""
        if message:
            self.adjust_clock(message.headers.get("clock") or 0)
        if names := self._addressed(body):
            self._carry_out(
                names,
                body["method"],
                body.get("arguments") or {},
                body.get("reply_to"),
                body.get("ticket"),
            )

    dispatch_from_message = handle_message

    def handle(
        self,
        method: str,
        arguments: Any = None,
        gpu_class: str | None = None,
        *,
        first: bool = True,
    ) -> Any:
        """Return the answer of a command: of one class, or of all that this dispatcher serves.
        ``first``: no other dispatcher answers it.
        """
        return self.handlers[method](self._state(gpu_class, first), **(arguments or {}))

    def reply(
        self,
        data: Mapping[str, Any],
        exchange: str,
        routing_key: str,
        ticket: str | None,
        serializer: str | None = None,
        **_: Any,
    ) -> None:
        """Send an answer, in the form of its command: that may be over by now."""
        self.mailbox._publish_reply(
            *(data, exchange, routing_key, ticket),
            channel=self.channel,
            serializer=serializer or self.mailbox.serializer,
        )

    def _addressed(self, body: Mapping[str, Any]) -> dict[str, str | None]:
        """Return name → class of the workers that a command means; None: this dispatcher."""
        workers: dict[str, str | None] = {
            worker_name(each): each for each in self._dispatcher().workers.classes
        }
        known = workers | {self.hostname: None}
        destination = body.get("destination")
        pattern, matcher = body.get("pattern"), body.get("matcher")
        if destination:
            return {name: each for name, each in known.items() if name in destination}
        if pattern and matcher:
            return {name: each for name, each in known.items() if match(name, pattern, matcher)}
        return workers

    def _carry_out(
        self,
        names: Mapping[str, str | None],
        method: str,
        arguments: Mapping[str, Any],
        reply_to: Mapping[str, str] | None,
        ticket: str | None,
    ) -> None:
        speaks = self._dispatcher().workers.speaks
        speaking = [name for name, each in names.items() if each is None or each in speaks]
        answering = speaking if reply_to else []
        first, form = bool(speaking), self.mailbox.serializer
        runs: list[tuple[str | None, Sequence[str]]] = [(None, answering)]
        if method in self._per_class:
            wanted = answering if method in self._reading else list(names)
            runs = [(names[name], [name] if name in answering else []) for name in wanted]
        for gpu_class, told in runs:

            def run(gpu_class: str | None = gpu_class, told: Sequence[str] = told) -> None:
                answer = self._answer(method, arguments, gpu_class, first)
                for name in told:
                    to = reply_to or {}
                    self.reply(
                        {name: answer},
                        exchange=to["exchange"],
                        routing_key=to["routing_key"],
                        ticket=ticket,
                        serializer=form,
                    )

            if method not in self._reading:
                run()
            elif not self._dispatcher().inspection.soon(run):
                logger.warning(
                    "%s is not answered: too many commands wait for Redis",
                    method,
                    extra={"action": "inspect_dropped"},
                )

    def _answer(
        self, method: str, arguments: Mapping[str, Any], gpu_class: str | None, first: bool
    ) -> Any:
        if method not in self.handlers:
            logger.warning("no such command: %r", method, extra={"action": "control_unknown"})
            return {"error": f"no such command: {method!r}"}
        try:
            return self.handle(method, arguments, gpu_class, first=first)
        except Exception as exc:
            logger.error("command %s failed: %r", method, exc, exc_info=exc)
            return {"error": repr(exc)}

    def _state(self, gpu_class: str | None, first: bool) -> Any:
        """Return what a handler gets: Celery's state, with the classes that the command means."""
        dispatcher: Any = self._dispatcher()
        classes = dispatcher.workers.classes
        wanted = classes if gpu_class is None else {gpu_class: classes[gpu_class]}
        return AttributeDict(self.state, classes=wanted, jobs=dispatcher.inspection, first=first)
