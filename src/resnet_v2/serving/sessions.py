"""The visitors of the page: each has one stream, on which it hears the answers to all that it asks.

gradio closes a session's stream behind each answer. A browser that asks just then may learn of its question's number
before it learns of the stream's end: it takes the stream for open, and waits for ever. So the stream stays open.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

CLOSE = b'"msg":"close_stream"'  # what gradio tells a browser at the end of a stream
SETTLING_SECONDS = 0.5  # within which a browser has learnt of the end of a stream


class Sessions:
    """Who asks and who hears; `queue` is gradio's, which would remember sessions for ever.

    Who does not come for an answer within so many seconds is forgotten, and who asks nothing for so long hears nothing
    more until then.
    """

    def __init__(self, queue: Any, seconds: float) -> None:
        self._queue, self._seconds, self._forgetting = queue, seconds, set[asyncio.Task[None]]()
        self._joining, self._ended = Counter[str](), Counter[str]()  # questions on their way, and streams just ended
        self._unheard: dict[str, float] = {}  # when the last question was asked of a session that does not listen
        self._news: dict[str, asyncio.Event] = {}  # of the sessions that listen; set when they ask

    @contextlib.asynccontextmanager
    async def asking(self, session: str) -> AsyncIterator[None]:
        """While gradio takes a question."""
        self._joining[session] += 1
        try:
            yield
        finally:
            self._joining -= Counter({session: 1})  # which drops those at 0
            self._expect(session)

    async def settled(self, session: str) -> None:
        """Wait until a browser knows whether its stream has ended."""
        while session in self._ended:
            await asyncio.sleep(SETTLING_SECONDS / 10)

    @contextlib.contextmanager
    def hearing(self, session: str) -> Iterator[bool]:
        """While a session has its stream; False where it has one, or asked nothing."""
        listens = session not in self._news and self.has_asked(session)
        if listens:
            self._unheard.pop(session, None)
            self._news[session] = asyncio.Event()
        try:
            yield listens
        finally:
            self._ended[session] += 1
            asyncio.get_running_loop().call_later(SETTLING_SECONDS, self._settle, session)
            if listens:
                del self._news[session]
                if not self._joining[session]:
                    self._forget(session)

    def has_asked(self, session: str) -> bool:
        """Whether gradio owes a session an answer."""
        return bool(self._queue.pending_event_ids_session.get(session))

    async def asks_again(self, session: str, gone: Callable[[], Awaitable[None]]) -> bool:
        """Wait for the next question of a session that listens; False where it is `gone` first, or asks none."""
        waits = [asyncio.ensure_future(one) for one in (self._news[session].wait(), gone())]
        try:
            await asyncio.wait(waits, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            self._news[session].clear()
            return self.has_asked(session)
        finally:
            for wait in waits:
                wait.cancel()

    def _expect(self, session: str) -> None:
        if session in self._news:
            self._news[session].set()
        elif self.has_asked(session):
            loop = asyncio.get_running_loop()
            self._unheard[session] = loop.time()
            loop.call_later(self._seconds, self._give_up, session)

    def _give_up(self, session: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._unheard.get(session, now) >= self._seconds:
            del self._unheard[session]
            task = asyncio.ensure_future(self._drop(session))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def _drop(self, session: str) -> None:
        await self._queue.clean_events(session_hash=session)
        self._forget(session)

    def _settle(self, session: str) -> None:
        self._ended -= Counter({session: 1})

    def _forget(self, session: str) -> None:
        for memory in (self._queue.pending_messages_per_session, self._queue.pending_event_ids_session):
            memory.pop(session, None)
