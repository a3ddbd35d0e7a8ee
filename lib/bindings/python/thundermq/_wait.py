# SPDX-License-Identifier: Apache-2.0
"""How an asyncio loop sleeps until something comes for a session. Knows the library's calls for that, and nothing of messages."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any, Callable, NamedTuple

AGAIN = 0.001  # where something lies there that nobody who waits wants: looked at so often


class Waiting(NamedTuple):
    session: Any
    done: Callable[[], bool]
    future: asyncio.Future[bool]


class Bell:
    """Of one environment in one loop. Whoever waits says what for; that is looked at whenever a descriptor rings, and whenever another
    one begins to wait: any call on a session may take in what somebody else waits for."""

    def __init__(self, env: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._env, self._loop = env, loop
        self._waiting: list[Waiting] = []
        self._fds: list[int] = []
        self._again: asyncio.TimerHandle | None = None

    async def until(self, session: Any, done: Callable[[], bool], timeout: float | None) -> None:
        one = Waiting(session, done, self._loop.create_future())
        self._waiting.append(one)
        try:
            self._look()
            async with asyncio.timeout(timeout):
                await one.future
        finally:
            self.forget(lambda w: w is one)

    def forget(self, which: Callable[[Waiting], bool]) -> None:
        for one in self._waiting:
            if which(one) and not one.future.done():
                one.future.cancel()
        self._waiting = [one for one in self._waiting if not which(one)]
        if not self._waiting:
            self._unhook()

    def _unhook(self) -> None:
        if not self._loop.is_closed():
            for fd in self._fds:
                self._loop.remove_reader(fd)
        for fd in self._fds:
            os.close(fd)
        if self._again:
            self._again.cancel()
        self._fds, self._again = [], None

    def _settle(self) -> None:
        for one in self._waiting[:]:
            if one.future.done():
                continue
            try:
                if one.done():
                    one.future.set_result(True)
            except Exception as e:  # is that one's own
                one.future.set_exception(e)
        self._waiting = [one for one in self._waiting if not one.future.done()]

    def _drive(self) -> bool:
        """The environment's core, if this thread has it."""
        from . import lib

        while (rc := lib.thmq_poll(self._env._raw(), 0)) > 0:
            pass
        return rc != -errno.EPERM

    def _arm(self, mine: bool) -> int:
        """0: everything that rings would ring. 1: there is something already."""
        from . import lib

        for session in {id(one.session): one.session for one in self._waiting}.values():
            rc = lib.thmq_session_arm(session._raw())
            if rc:
                return rc
        return lib.thmq_env_arm(self._env._raw()) if mine else 0

    def _look(self) -> None:
        from . import Error, lib

        self._unhook()
        armed = 1
        for _ in range(3):
            mine = self._env._own and self._drive()
            self._settle()
            if not self._waiting:
                return
            armed = self._arm(mine)
            if armed <= 0:
                break
        if armed < 0:
            for one in self._waiting:
                one.future.set_exception(Error(armed))
            self._waiting = []
        elif armed > 0:
            self._again = self._loop.call_later(AGAIN, self._look)
        else:
            # copies: another loop's bell, or the application, may watch the same ones
            fds = {lib.thmq_session_fd(one.session._raw()) for one in self._waiting}
            self._fds = [os.dup(fd) for fd in fds | ({lib.thmq_env_fd(self._env._raw())} if mine else set())]
            for fd in self._fds:
                self._loop.add_reader(fd, self._look)


async def until(session: Any, done: Callable[[], bool], timeout: float | None = None) -> None:
    """Comes back once done() is true; raises what it raises, or TimeoutError."""
    if done():
        return
    loop = asyncio.get_running_loop()
    bells = session._env._bells
    bell = bells.setdefault(loop, Bell(session._env, loop))
    try:
        await bell.until(session, done, timeout)
    finally:
        if not bell._waiting:
            bells.pop(loop, None)
