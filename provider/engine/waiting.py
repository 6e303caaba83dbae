"""The requests that wait for a slot, in turns by cache key: a long queue of one delays no other's request."""

from collections import deque

from provider.engine.errors import GenerationError
from provider.engine.request import Request

MAX_WAITING = 256
MAX_WAITING_OF_KEY = 64


class WaitingRequests:
    """A bounded queue for each cache key, and whose turn it is."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Request]] = {}  # in the order of their turns
        self._paused: set[int] = set()
        self._count = 0

    @property
    def has_ready(self) -> bool:
        """Whether `take` would give a request."""
        return self._count > len(self._paused)

    def add(self, request: Request) -> None:
        """Queues a request. Raises GenerationError `overloaded`."""
        queue = self._queues.get(request.cache_key, ())
        if self._count >= MAX_WAITING or len(queue) >= MAX_WAITING_OF_KEY:
            raise GenerationError("overloaded", f"{self._count} requests wait already; try again later")
        self._queues.setdefault(request.cache_key, deque()).append(request)
        self._count += 1

    def take(self) -> Request | None:
        """The next request that is not paused, of the key whose turn it is."""
        for queue in self._queues.values():
            for request in queue:
                if request.id not in self._paused:
                    self._remove(request)
                    return request
        return None

    def find(self, request_id: int) -> Request | None:
        """The waiting request with this id."""
        return next((each for queue in self._queues.values() for each in queue if each.id == request_id), None)

    def remove(self, request_id: int) -> Request | None:
        """Takes the request with this id out of its queue."""
        request = self.find(request_id)
        if request:
            self._remove(request)
        return request

    def pause(self, request_id: int) -> None:
        """Passes over the request, if it waits, until `resume`."""
        if self.find(request_id):
            self._paused.add(request_id)

    def resume(self, request_id: int) -> None:
        """Ends a pause."""
        self._paused.discard(request_id)

    def _remove(self, request: Request) -> None:
        queue = self._queues.pop(request.cache_key)
        queue.remove(request)
        if queue:
            self._queues[request.cache_key] = queue
        self._paused.discard(request.id)
        self._count -= 1
