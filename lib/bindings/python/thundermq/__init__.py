# SPDX-License-Identifier: Apache-2.0
"""ThunderMQ: a durable message broker inside this process, or a way to one in another.

    import thundermq

    with thundermq.Environment() as env, env.broker(data_dir="data"), env.connect("inproc://") as session:
        session.create_topic("greetings", if_absent=True)
        producer = session.producer("greetings")
        producer.send(b"hello")
        producer.flush()                                    # it is on the medium
        consumer = session.consumer("greetings", group="readers")
        message = consumer.get(timeout=1)
        print(bytes(message.data), message.offset)
        consumer.ack(message)

Times are in seconds. Options of the C library that have no parameter of their own are given by their C names, with their units:
connect(url, reconnect_ns=60 * 10**9). What fails raises Error.

Threads: an Environment may be used from any; a Session and all that was opened on it belong to one thread at a time. Calls that wait
let other Python threads run, and can be interrupted. A child of fork() (multiprocessing's, where that is how it begins) has nothing of its
parent's: whatever it does with that raises Error, EINVAL; it opens an Environment of its own.

Views: Message.data and its like are memoryviews of the library's own memory. A message stays there until it and all views of it are
gone, or release() is called; a consumer or session with views in use does not close (BufferError). Keep bytes(message.data)
of what is to stay.

asyncio: `async for message in consumer`, send_async(), flush_async(), get_async(). With Environment(cores=1) the library's own thread works
meanwhile; without, the loop drives the environment's core.
"""

from __future__ import annotations

import enum
import errno as _errno
import os
import threading
import time
from typing import Any, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Union

from _thundermq import ffi

from ._wait import Bell, until

__all__ = ["Broker", "Compression", "Consumer", "Durability", "Environment", "Error", "ErrorClass", "Event", "EventType", "Message", "Policy",
           "Producer", "Session", "Start", "Transaction", "version"]

lib = ffi.dlopen(os.environ.get("THUNDERMQ_LIBRARY") or "libthundermq.so.0")

Bytes = Union[bytes, bytearray, memoryview, str]
HeaderValue = Union[bytes, str, int, float, bool]
_SLICE = 0.2  # a call that waits comes back so often, for Ctrl-C
_FOREVER = (1 << 64) - 1
_ALL = (1 << 32) - 1


class Durability(enum.IntEnum):
    """What an acknowledgement proves; each includes those before it."""

    DEFAULT, MEMORY, WRITTEN, DURABLE, QUORUM, ALL = range(6)


class Compression(enum.IntEnum):
    """How a producer makes its payloads small: compression=Compression.ZSTD."""

    NONE, LZ4, ZSTD = range(3)


class Policy(enum.IntEnum):
    """How a core waits."""

    DEFAULT, POLL, EVENT, FIXED, SKI, ADAPTIVE, PREDICTIVE = range(7)


class Start(enum.IntEnum):
    """Where reading begins, or goes on."""

    DEFAULT, BEGIN, END, OFFSET, TIME = range(5)


class ErrorClass(enum.IntEnum):
    """What can be done about an error."""

    OK, RETRY, BACKPRESSURE, HANDLE, ENVIRONMENT, CALLER = range(6)


EventType = enum.IntEnum(  # type: ignore[misc]
    "EventType", {n[len("THMQ_EVENT_"):]: getattr(lib, n) for n in dir(lib) if n.startswith("THMQ_EVENT_")})


class Error(Exception):
    """What failed: number (errno's, or ours from 1024 on), name, and what can be done (kind)."""

    def __init__(self, rc: int, text: str = "") -> None:
        self.number = abs(rc)
        self.name = ffi.string(lib.thmq_errname(rc)).decode()
        self.kind = ErrorClass(lib.thmq_errclass(rc))
        super().__init__(text or ffi.string(lib.thmq_strerror(rc)).decode())


def version() -> str:
    """Of the C library."""
    return ffi.string(lib.thmq_version()).decode()


def _control(rc: int) -> int:
    """Of a call that leaves a text."""
    if rc < 0:
        raise Error(rc, ffi.string(lib.thmq_errmsg()).decode(errors="replace"))
    return rc


def _data(rc: int, call: str) -> int:
    """Of one that leaves none: its page says what the number means there."""
    if rc < 0:
        raise Error(rc, f"{call}: {ffi.string(lib.thmq_strerror(rc)).decode()}")
    return rc


def _ns(seconds: float | None) -> int:
    return _FOREVER if seconds is None else max(0, int(seconds * 1e9))


def _name(text: str | None) -> Any:
    return ffi.NULL if text is None else text.encode()


def _options(name: str, fields: Mapping[str, Any], keep: list[Any]) -> Any:
    """An options struct; what it points to lives as long as keep."""
    o = _struct(name)  # all zero: the defaults. Its _init() would write what a newer library has beyond it
    for field, value in fields.items():
        if field == "size" or not hasattr(o, field):
            raise TypeError(f"there is no option {field}")
        if value is None:
            continue
        if isinstance(value, (str, bytes, os.PathLike)):
            value = ffi.new("char[]", os.fsencode(value))
            keep.append(value)
        elif isinstance(value, Mapping):
            value = _options("thmq_limits" if field == "limits" else "thmq_tls_opts", value, keep)
            keep.append(value)
        try:
            setattr(o, field, value)
        except (TypeError, OverflowError) as e:
            raise type(e)(f"option {field}: {e}") from None
    keep.append(o)
    return o


def _struct(name: str) -> Any:
    s = ffi.new(f"struct {name} *")
    s.size = ffi.sizeof(f"struct {name}")
    return s


def _plain(s: Any) -> dict[str, Any]:
    """A struct of numbers and names as a dict."""
    out = {}
    for field, info in ffi.typeof(s).item.fields:
        if field in ("size", "reserved"):
            continue
        value = getattr(s, field)
        if info.type.kind == "array":
            value = ffi.string(value).decode() if info.type.item.cname == "char" else list(value)
        out[field] = value
    return out


def _all(kind: str, fetch: Callable[[Any, int], int]) -> list[dict[str, Any]]:
    """All structs of a call that fills as many as there is room for, and says how many there are."""
    room = 16
    while True:
        them = ffi.new(f"struct {kind}[]", room)
        them[0].size = ffi.sizeof(f"struct {kind}")
        n = _control(fetch(them, room))
        if n <= room:
            return [_plain(ffi.addressof(them, i)) for i in range(n)]
        room = n


_forks = 0  # between the first process and this one


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class _Handle:
    """What closes once, at the end of a with statement at the latest."""

    _c: Any = None
    _closing = False

    _born: int

    def __new__(cls, *args: Any, **fields: Any):  # type: ignore[no-untyped-def]
        one = super().__new__(cls)
        one._born = _forks
        return one

    def _ours(self) -> None:
        """The library's data calls do not look whose process this is, and what they would touch is not there."""
        if self._born != _forks:
            raise Error(-_errno.EINVAL, f"this {type(self).__name__.lower()} is of the process that forked this one: open an Environment here, and what is needed on it")

    def _raw(self) -> Any:
        self._ours()
        if self._c is None or not self._alive():
            raise Error(-_errno.ESHUTDOWN, f"this {type(self).__name__.lower()} is closed")
        return self._c

    def _alive(self) -> bool:
        return True

    def _in_use(self) -> int:
        return 0

    def _waiting(self) -> Iterable[int]:
        """Threads that are in a call of the library that waits: nothing may go from under them."""
        return ()

    def _close(self, c: Any, timeout_ns: int) -> int:
        raise NotImplementedError

    def close(self, timeout: float = 1.0) -> None:
        """Closes it, and all that is open on it; waits so long for what is unsettled. A second time does nothing. Another thread that waits in it gets an Error."""
        if self._c is None or not self._alive():
            return
        self._ours()
        if self._in_use():
            raise BufferError("views of its messages are still in use: let go of them, or keep bytes() of them")
        self._closing = True  # nobody begins to wait any more, and who does comes out with the end of his slice
        try:
            while any(one != threading.get_ident() for one in self._waiting()):
                time.sleep(0.001)
            rc = self._close(self._c, _ns(timeout))
            if rc != -_errno.EDEADLK:  # then nothing was done
                self._c = None
        finally:
            self._closing = False
        _control(rc)

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        try:
            self.close()
        except (BufferError, Error):
            if kind is None:  # else what was raised first is what counts, and its frames may hold views
                raise


class Environment(_Handle):
    """Memory, cores, clock. cores: how many threads of the library drive them; 0: one core, driven by the calls of the thread that made this."""

    def __init__(self, cores: int = 0, policy: int = Policy.DEFAULT, **options: Any) -> None:
        keep: list[Any] = []
        p = ffi.new("struct thmq_env **")
        _control(lib.thmq_env_open(p, _options("thmq_env_opts", {"core_count": cores, "policy": policy, **options}, keep)))
        self._c = p[0]
        self._own = cores == 0
        self._sessions: list[Session] = []
        self._bells: dict[Any, Bell] = {}

    def broker(self, data_dir: str | os.PathLike[str] | None = None, listen: str | None = None, **options: Any) -> Broker:
        """A broker on a directory; without one for volatile topics only."""
        return Broker(self, {"data_dir": data_dir, "listen": listen, **options})

    def connect(self, url: str = "inproc://", **options: Any) -> Session:
        """A session with a broker: inproc://, shm:///path, tcp://host:port, tls://…"""
        return Session(self, url, options)

    def poll(self, timeout: float = 0.0) -> int:
        """Drives the calling thread's core; how much was done."""
        return _data(lib.thmq_poll(self._raw(), _ns(timeout)), "thmq_poll")

    def stats(self) -> dict[str, Any]:
        s = _struct("thmq_env_stats")
        _control(lib.thmq_env_stats(self._raw(), s))
        return _plain(s)

    def _in_use(self) -> int:
        return sum(s._in_use() for s in self._sessions)

    def _waiting(self) -> Iterable[int]:
        return [one for s in list(self._sessions) for one in list(s._inside)]

    def _close(self, c: Any, timeout_ns: int) -> int:
        return lib.thmq_env_close(c, timeout_ns)


class Broker(_Handle):
    def __init__(self, env: Environment, fields: Mapping[str, Any]) -> None:
        self._env = env
        p, keep = ffi.new("struct thmq_broker **"), []  # type: ignore[var-annotated]
        _control(lib.thmq_broker_open(env._raw(), _options("thmq_broker_opts", fields, keep), p))
        self._c = p[0]

    def listen_urls(self) -> list[str]:
        """Where it listens, with the ports that it got."""
        urls, place = [], ffi.new("char[]", 512)
        while lib.thmq_broker_listen_url(self._raw(), len(urls), place, 512) >= 0:
            urls.append(ffi.string(place).decode())
        return urls

    def stats(self) -> dict[str, Any]:
        s = _struct("thmq_broker_stats")
        _control(lib.thmq_broker_stats(self._raw(), s))
        return _plain(s)

    def copy(self, dest: str | os.PathLike[str], timeout: float | None = None) -> None:
        """Copies its directory while it serves."""
        _control(lib.thmq_broker_copy(self._raw(), os.fsencode(dest), _ns(timeout)))

    def _alive(self) -> bool:
        return self._env._c is not None

    def _close(self, c: Any, timeout_ns: int) -> int:
        return lib.thmq_broker_close(c, timeout_ns)


class Event:
    """What happened on a session."""

    def __init__(self, session: Session, e: Any) -> None:
        self.type = EventType(e.type)
        self.error = Error(e.error) if e.error else None
        self.sequence: int = e.sequence
        self.offset: int = e.offset
        self.count: int = e.count
        self.partition: int = e.partition
        self.durability = Durability(e.durability)
        at = e.producer if e.producer else e.consumer
        #: the Producer or Consumer, or None
        self.source: Producer | Consumer | None = session._streams.get(int(ffi.cast("uintptr_t", at)))

    def __repr__(self) -> str:
        return f"<{self.type.name} partition {self.partition} sequence {self.sequence} offset {self.offset} error {self.error}>"


class Session(_Handle):
    """One thread's way into a broker."""

    def __init__(self, env: Environment, url: str, fields: Mapping[str, Any]) -> None:
        self._env = env
        self._streams: dict[int, Any] = {}
        self._inside: list[int] = []
        self._done: list[Any] = []  # messages that nobody looks at any more, from whatever thread; given back by this one
        p, keep = ffi.new("struct thmq_session **"), []  # type: ignore[var-annotated]
        _control(lib.thmq_connect(env._raw(), url.encode(), _options("thmq_session_opts", fields, keep), p))
        self._c = p[0]
        env._sessions.append(self)

    # topics

    def create_topic(self, name: str, partitions: int = 1, *, if_absent: bool = False, volatile: bool = False,
                     retain_consumed: bool = False, compact: bool = False, flags: int = 0, **options: Any) -> None:
        """compact: of each key the newest message stays. retention_ns, retention_bytes, ttl_ns, tombstone_ns, visible_at, …: as in C."""
        flags |= (lib.THMQ_TOPIC_IF_ABSENT if if_absent else 0) | (lib.THMQ_TOPIC_VOLATILE if volatile else 0) | \
            (lib.THMQ_TOPIC_RETAIN_CONSUMED if retain_consumed else 0) | (lib.THMQ_TOPIC_COMPACT if compact else 0)
        keep: list[Any] = []
        o = _options("thmq_topic_opts", {"partition_count": partitions, "flags": flags, **options}, keep)
        _control(lib.thmq_topic_create(self._raw(), name.encode(), o))

    def alter_topic(self, name: str, **options: Any) -> None:
        """retention_ns, retention_bytes, ttl_ns, tombstone_ns, limits (a dict): what is given is set, 0 and None take it away;
        partitions: so many, at least as many as there are."""
        if "partitions" in options:
            options["partition_count"] = options.pop("partitions")
        bits = {"retention_ns": lib.THMQ_ALTER_RETENTION_TIME, "retention_bytes": lib.THMQ_ALTER_RETENTION_BYTES,
                "ttl_ns": lib.THMQ_ALTER_TTL, "tombstone_ns": lib.THMQ_ALTER_TOMBSTONE, "limits": lib.THMQ_ALTER_LIMITS,
                "partition_count": lib.THMQ_ALTER_PARTITIONS}
        keep: list[Any] = []
        what = sum(bits[k] for k in options)
        _control(lib.thmq_topic_alter(self._raw(), name.encode(), _options("thmq_topic_opts", options, keep), what))

    def delete_topic(self, name: str) -> None:
        _control(lib.thmq_topic_delete(self._raw(), name.encode()))

    def topic(self, name: str) -> dict[str, Any]:
        s = _struct("thmq_topic_info")
        _control(lib.thmq_topic_describe(self._raw(), name.encode(), s))
        return _plain(s)

    def topics(self) -> list[dict[str, Any]]:
        return _all("thmq_topic_info", lambda them, room: lib.thmq_topic_list(self._raw(), them, room))

    def partition(self, topic: str, partition: int = 0, group: str | None = None) -> dict[str, Any]:
        """Bounds of a partition, and where a group stands in it (lag)."""
        s = _struct("thmq_partition_info")
        _control(lib.thmq_partition_describe(self._raw(), topic.encode(), partition, _name(group), s))
        return _plain(s)

    def find_key(self, topic: str, key: Bytes, before_offset: int = _FOREVER, partition: int = _ALL) -> dict[str, Any] | None:
        """Where the newest message with a key is."""
        s, k = _struct("thmq_key_info"), key.encode() if isinstance(key, str) else bytes(key)
        rc = lib.thmq_key_find(self._raw(), topic.encode(), partition, k, len(k), before_offset, s)
        return None if rc == -_errno.ENOENT else (_control(rc), _plain(s))[1]

    def groups(self, topic: str) -> list[dict[str, Any]]:
        """The groups of a topic, with their members and lag."""
        out = []
        for group in _all("thmq_group_info", lambda them, room: lib.thmq_group_list(self._raw(), topic.encode(), them, room)):
            try:
                out.append(self.group(topic, group["name"]))
            except Error as e:
                if e.number != _errno.ENOENT:  # somebody has deleted it meanwhile
                    raise
        return out

    def group(self, topic: str, group: str) -> dict[str, Any]:
        """One of them."""
        s = _struct("thmq_group_info")
        _control(lib.thmq_group_describe(self._raw(), topic.encode(), group.encode(), s))
        return _plain(s)

    def group_members(self, topic: str, group: str) -> list[dict[str, Any]]:
        """Who is in it, in the order of joining. Those of a shared group are not known one by one."""
        return _all("thmq_group_member", lambda them, room: lib.thmq_group_members(self._raw(), topic.encode(), group.encode(), them, room))

    def group_owners(self, topic: str, group: str) -> list[int | None]:
        """Of each partition the place of its reader in what group_members() gives at that moment; None: nobody."""
        room = 16
        while True:
            them = ffi.new("uint32_t[]", room)
            n = _control(lib.thmq_group_owners(self._raw(), topic.encode(), group.encode(), them, room))
            if n <= room:
                return [None if them[i] == _ALL else them[i] for i in range(n)]
            room = n

    def reset_group(self, topic: str, group: str, start: int, value: int = 0, partition: int = _ALL, *, force: bool = False) -> None:
        """Says where it goes on; value: an offset, or ns since 1970. force: members are put out of it first."""
        _control(lib.thmq_group_reset(self._raw(), topic.encode(), group.encode(), partition, start, value, lib.THMQ_GROUP_FORCE if force else 0))

    def delete_group(self, topic: str, group: str, *, force: bool = False) -> None:
        """Forgets it, and what it has acknowledged."""
        _control(lib.thmq_group_delete(self._raw(), topic.encode(), group.encode(), lib.THMQ_GROUP_FORCE if force else 0))

    # streams

    def producer(self, topic: str, *, durability: int = Durability.DEFAULT, name: str | None = None, report: bool = False,
                 **options: Any) -> Producer:
        flags = options.pop("flags", 0) | (lib.THMQ_PRODUCER_REPORT if report else 0)
        return Producer(self, topic, {"durability": durability, "name": name, "flags": flags, **options})

    def consumer(self, topic: str, group: str | None = None, *, shared: bool = False, start: int = Start.DEFAULT,
                 start_always: bool = False, tags: Sequence[str] = (), backoff: Sequence[float] = (), **options: Any) -> Consumer:
        """group: None for a reader of its own. backoff: seconds after the first delivery, the second, … of a shared group."""
        flags = options.pop("flags", 0) | (lib.THMQ_CONSUMER_SHARED if shared else 0) | \
            (lib.THMQ_CONSUMER_START_ALWAYS if start_always else 0)
        fields = {"start": start, "flags": flags, **options}
        keep: list[Any] = []
        if tags:
            keep += [ffi.new("char[]", t.encode()) for t in tags]
            fields["tags"], fields["tag_count"] = ffi.new("const char *[]", keep[:]), len(tags)
        if backoff:
            fields["backoff_ns"], fields["backoff_count"] = ffi.new("uint64_t[]", [_ns(b) for b in backoff]), len(backoff)
        return Consumer(self, topic, group, fields, keep)

    # transactions

    def transaction(self, name: str | None = None, timeout: float | None = None, **options: Any) -> Transaction:
        """Messages, send(…, txn=t), and acknowledgements, ack(message, txn=t), that count all or not at all.

        with session.transaction() as t: commits it at the end, and aborts it if something is raised. timeout: it is aborted if it is open for longer.
        """
        return Transaction(self, {"name": name, "timeout_ns": None if timeout is None else _ns(timeout), **options})

    def watch_transactions(self, name: str) -> None:
        """TXN_CHECK events ask what is to become of prepared transactions of that name: decide_transaction(event.sequence, …)."""
        _control(lib.thmq_txn_watch(self._raw(), name.encode()))

    def decide_transaction(self, number: int, commit: bool, timeout: float = 30.0) -> None:
        decision = lib.THMQ_TXN_COMMIT if commit else lib.THMQ_TXN_ABORT
        _control(lib.thmq_txn_decide(self._raw(), number, decision, _ns(timeout)))

    def transactions(self) -> list[dict[str, Any]]:
        """Those of all sessions that are not over, oldest first. state: 1 open, 2 being ended, 3 prepared, 4 in doubt."""
        return _all("thmq_txn_info", lambda them, room: lib.thmq_txn_list(self._raw(), them, room))

    def force_transaction(self, number: int, commit: bool = False, timeout: float = 30.0) -> None:
        """Ends one of anybody; one that is open can only be aborted."""
        decision = lib.THMQ_TXN_COMMIT if commit else lib.THMQ_TXN_ABORT
        _control(lib.thmq_txn_force(self._raw(), number, decision, _ns(timeout)))

    def reply(self, request: Message, data: Bytes, **options: Any) -> None:
        """Answers a request: a message that somebody sent by Producer.call(). Acknowledge it behind that."""
        keep: list[Any] = []
        b, o = _bytes(data, keep), _message_options(options, keep) if options else ffi.NULL
        request._here()
        while (rc := lib.thmq_reply(self._raw(), request._c, b, len(b), o)) == -_errno.EAGAIN:
            self.wait(0.01)
        _data(rc, "thmq_reply")

    # what happens

    def wait(self, timeout: float | None = None) -> bool:
        """True: something is there; False: the time has passed."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._give_back()
            left = _SLICE if end is None else min(_SLICE, end - time.monotonic())
            if _control(self._slice(lambda ns: lib.thmq_session_wait(self._raw(), ns), left)):
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def events(self, most: int = 64) -> list[Event]:
        """What happened since the last call; most of them."""
        all_ = ffi.new("struct thmq_event[]", most)
        return [Event(self, all_[i]) for i in range(_data(lib.thmq_events(self._raw(), all_, most), "thmq_events"))]

    def fileno(self) -> int:
        return _control(lib.thmq_session_fd(self._raw()))

    def _give_back(self) -> None:
        if self._c is None or not self._alive() or self._born != _forks:
            self._done.clear()
        while self._done:
            consumer, message = self._done.pop()
            if consumer._c is not None:
                lib.thmq_release(consumer._c, message, 1)

    def _blocking(self, call: Any, timeout: float | None) -> None:
        """A call that waits, in slices."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._give_back()
            left = _SLICE if end is None else max(0.0, min(_SLICE, end - time.monotonic()))
            rc = self._slice(call, left)
            if rc != -_errno.ETIMEDOUT or (end is not None and time.monotonic() >= end):
                _control(rc)
                return

    def _slice(self, call: Any, seconds: float) -> int:
        me = threading.get_ident()
        self._inside.append(me)
        try:
            if self._closing or self._env._closing:
                raise Error(-_errno.ESHUTDOWN, "this session is closed")
            self._raw()
            return call(_ns(seconds))
        finally:
            self._inside.remove(me)

    def _alive(self) -> bool:
        return self._env._c is not None

    def _waiting(self) -> Iterable[int]:
        return list(self._inside)

    def _in_use(self) -> int:
        return sum(s._views for s in self._streams.values() if isinstance(s, Consumer)) if self._c is not None else 0

    def _close(self, c: Any, timeout_ns: int) -> int:
        self._give_back()
        for bell in list(self._env._bells.values()):
            bell.forget(lambda one: one.session is self)
        rc = lib.thmq_session_close(c, timeout_ns)
        if rc != -_errno.EDEADLK:
            if self in self._env._sessions:
                self._env._sessions.remove(self)
            for stream in self._streams.values():
                stream._c = None
        return rc


class _Stream(_Handle):
    _session: Session

    def _alive(self) -> bool:
        return self._session._c is not None and self._session._alive()

    def _enter(self, c: Any) -> None:
        self._c = c
        self._session._streams[int(ffi.cast("uintptr_t", c))] = self

    def _leave(self, c: Any, rc: int) -> int:
        if rc != -_errno.EDEADLK:
            self._session._streams.pop(int(ffi.cast("uintptr_t", c)), None)
        return rc


class Transaction(_Handle):
    """What is sent and acknowledged in it counts once it is committed, or not at all."""

    def __init__(self, session: Session, fields: Mapping[str, Any]) -> None:
        self._session = session
        self._prepared = False
        p, keep = ffi.new("struct thmq_txn **"), []  # type: ignore[var-annotated]
        _control(lib.thmq_txn_begin(session._raw(), _options("thmq_txn_opts", fields, keep), p))
        self._c = p[0]

    @property
    def id(self) -> int:
        """Its number, which no other one of this broker ever has."""
        return lib.thmq_txn_id(self._raw())

    def commit(self, timeout: float | None = None) -> None:
        """Durable, all of it. ETIMEDOUT, ECONNRESET: not known, call it again; whatever else it raises: it is aborted."""
        self._end(lib.thmq_txn_commit, timeout)

    def prepare(self, timeout: float | None = None) -> None:
        """Durable, and whether it is committed is said later, by anybody, whatever dies meanwhile. It has a name, and acknowledges nothing."""
        self._end(lib.thmq_txn_prepare, timeout)
        self._prepared = True

    def abort(self, timeout: float = 5.0) -> None:
        """Nothing of it counts, also where it is prepared."""
        self._raw()
        super().close(timeout)

    def _end(self, call: Any, timeout: float | None) -> None:
        c = self._raw()
        try:
            self._session._blocking(lambda ns: call(c, ns), timeout)
        finally:
            if not self._alive() or lib.thmq_txn_id(c) == 0:  # it is over
                self._c = None

    def close(self, timeout: float = 1.0) -> None:
        """Aborts it, if it is open; one that is prepared waits for a decision."""
        if self._prepared:
            self._c = None
        super().close(timeout)

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is None and self._c is not None and not self._prepared:
            self.commit()
        super().__exit__(kind, value, traceback)

    def _alive(self) -> bool:
        return self._session._c is not None and self._session._alive()

    def _close(self, c: Any, timeout_ns: int) -> int:
        return lib.thmq_txn_abort(c, timeout_ns)


class Producer(_Stream):
    def __init__(self, session: Session, topic: str, fields: Mapping[str, Any]) -> None:
        self._session = session
        p, keep = ffi.new("struct thmq_producer **"), []  # type: ignore[var-annotated]
        _control(lib.thmq_producer_open(session._raw(), topic.encode(), _options("thmq_producer_opts", fields, keep), p))
        self._enter(p[0])
        self._last = self.watermark

    def try_send(self, data: Bytes, **options: Any) -> int | None:
        """As send(); None: the window is full, and nothing was taken."""
        return self._single(data, options)()

    def send(self, data: Bytes, **options: Any) -> int:
        """Takes a message, and gives its sequence; waits while the window is full. It is not durable yet: flush().

        key (bytes or str), tag, headers (a mapping, or pairs), partition, ttl (seconds), time_ns, durability; expect_end, expect_key: an offset;
        txn: a Transaction.
        """
        return self._until_taken(self._single(data, options))

    async def send_async(self, data: Bytes, **options: Any) -> int:
        return await self._taken_async(self._single(data, options))

    def try_send_batch(self, messages: Iterable[Bytes | Mapping[str, Any]], **options: Any) -> int | None:
        """As send_batch(); None: the window is full, and none was taken."""
        return self._together(messages, options)()

    def send_batch(self, messages: Iterable[Bytes | Mapping[str, Any]], **options: Any) -> int:
        """Takes messages together, all or none, to one partition, their payloads compressed as one; gives the one sequence of all. Waits as send().

        Each is its bytes, or a mapping: data, and key, tag, headers, ttl as of send(). Options, for all of them: partition, priority, durability, txn.
        """
        return self._until_taken(self._together(messages, options))

    async def send_batch_async(self, messages: Iterable[Bytes | Mapping[str, Any]], **options: Any) -> int:
        return await self._taken_async(self._together(messages, options))

    def _single(self, data: Bytes, options: Mapping[str, Any]) -> Callable[[], int | None]:
        keep: list[Any] = []
        b, o = _bytes(data, keep), _message_options(options, keep) if options else ffi.NULL
        return lambda: self._try("thmq_send", lib.thmq_send(self._raw(), b, len(b), o), keep)

    def _together(self, messages: Iterable[Bytes | Mapping[str, Any]], options: Mapping[str, Any]) -> Callable[[], int | None]:
        keep: list[Any] = []
        all_, o = list(messages), _message_options(options, keep) if options else ffi.NULL
        if not all_ or len(all_) > lib.THMQ_BATCH_MAX:
            raise Error(-_errno.EINVAL, f"thmq_send_batch: 1 to {lib.THMQ_BATCH_MAX} messages go together, not {len(all_)}")
        m = ffi.new("struct thmq_batch_message[]", len(all_))
        for i, one in enumerate(all_):
            _batch_message(m[i], one if isinstance(one, Mapping) else {"data": one}, keep)
            if m[i].key_len > lib.THMQ_KEY_MAX:
                raise Error(-_errno.EINVAL, f"thmq_send_batch: the key of message {i} has {m[i].key_len} bytes, more than {lib.THMQ_KEY_MAX}")
        return lambda: self._try("thmq_send_batch", lib.thmq_send_batch(self._raw(), m, len(m), o), keep)

    def _try(self, name: str, rc: int, keep: list[Any]) -> int | None:
        """What a call gave that sends; keep: what it points to, which lives until here."""
        if rc == -_errno.EAGAIN:
            return None
        self._last = _data(rc, name)
        return rc

    def _until_taken(self, attempt: Callable[[], int | None]) -> int:
        while (sequence := attempt()) is None:
            self._session.wait(_SLICE)
        return sequence

    async def _taken_async(self, attempt: Callable[[], int | None]) -> int:
        taken: list[int] = []

        def done() -> bool:
            sequence = attempt()
            if sequence is not None:
                taken.append(sequence)
            return sequence is not None

        await until(self._session, done)
        return taken[0]

    def call(self, data: Bytes, timeout: float = 30.0, **options: Any) -> bytes:
        """Sends a request, and waits for its answer."""
        keep: list[Any] = []
        b, o = _bytes(data, keep), _message_options(options, keep) if options else ffi.NULL
        r = ffi.new("struct thmq_response *")
        _data(lib.thmq_call(self._raw(), b, len(b), o, _ns(timeout), r), "thmq_call")
        try:
            return bytes(ffi.buffer(r.message.data, r.message.len)) if r.message.len else b""
        finally:
            lib.thmq_response_release(self._session._raw(), r, 1)

    def claim(self, length: int, **options: Any) -> Claim:
        """Room in the library's memory: with producer.claim(5) as room: room[:] = b"hello". Sent at the end of the with statement."""
        keep: list[Any] = []
        return Claim(self, length, _message_options(options, keep) if options else ffi.NULL, keep)

    def flush(self, timeout: float | None = None) -> None:
        """Waits until all that was sent has the durability that was asked for; EIO: some failed, and events tell which."""
        self._session._blocking(lambda ns: lib.thmq_flush(self._raw(), ns), timeout)

    async def flush_async(self, timeout: float | None = None) -> None:
        last = self._last
        await until(self._session, lambda: self.watermark >= last, timeout)
        _control(lib.thmq_flush(self._raw(), 0))

    @property
    def watermark(self) -> int:
        """The highest sequence up to which all is settled."""
        return _data(lib.thmq_watermark(self._raw()), "thmq_watermark")

    def _close(self, c: Any, timeout_ns: int) -> int:
        return self._leave(c, lib.thmq_producer_close(c, timeout_ns))


class Claim:
    def __init__(self, producer: Producer, length: int, options: Any, keep: list[Any]) -> None:
        self._producer, self._room = producer, memoryview(b"")
        self._c = ffi.new("struct thmq_claim *")
        #: known behind the with statement
        self.sequence: int | None = None
        while (rc := lib.thmq_claim(producer._raw(), options, length, self._c)) == -_errno.EAGAIN:
            producer._session.wait(_SLICE)
        _data(rc, "thmq_claim")
        self._open = True

    def __enter__(self) -> memoryview:
        self._room = memoryview(ffi.buffer(self._c.data, self._c.len))
        return self._room

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        self._room.release()
        if kind is not None:
            self.abort()
            return
        while (rc := lib.thmq_commit(self._producer._raw(), self._c)) == -_errno.EAGAIN:
            self._producer._session.wait(_SLICE)
        self._open = False
        self.sequence = self._producer._last = _data(rc, "thmq_commit")

    def abort(self) -> None:
        if self._open and self._producer._c is not None and self._producer._alive() and self._producer._born == _forks:
            lib.thmq_abort(self._producer._c, self._c)
        self._open = False


class Message:
    """A message in the library's memory."""

    __slots__ = ("_c", "_consumer", "_views")

    def __init__(self, consumer: Consumer, c: Any) -> None:
        self._consumer, self._c, self._views = consumer, c, 0

    @property
    def data(self) -> memoryview:
        return self._view(self._c.data, self._c.len)

    @property
    def key(self) -> memoryview | None:
        return self._view(self._c.key, self._c.key_len) if self._c.key else None

    @property
    def tag(self) -> str | None:
        if not self._c.tag:
            return None
        self._here()
        return ffi.unpack(self._c.tag, self._c.tag_len).decode(errors="surrogateescape")

    @property
    def headers(self) -> list[tuple[str, HeaderValue]]:
        """Copies, in their order: a name may occur more than once."""
        self._here()
        out, cursor, h = [], ffi.new("uint32_t *"), ffi.new("struct thmq_header *")
        while _data(lib.thmq_header_next(self._c, cursor, h), "thmq_header_next"):
            out.append((ffi.string(h.name).decode(errors="surrogateescape"), _header_value(h)))
        return out

    @property
    def partition(self) -> int:
        return self._c.partition

    @property
    def offset(self) -> int:
        return self._c.offset

    @property
    def time_ns(self) -> int:
        """When it was stored, or its own time; nanoseconds since 1970, as time.time_ns()."""
        return self._c.time_ns

    @property
    def priority(self) -> int:
        """0, the lowest, and up; 0 where its topic has none."""
        self._here()
        return _data(lib.thmq_message_priority(self._consumer._raw(), self._c), "thmq_message_priority")

    @property
    def deliveries(self) -> int:
        """How often it was handed out, in a shared group."""
        self._here()
        return _data(lib.thmq_message_deliveries(self._consumer._raw(), self._c), "thmq_message_deliveries")

    def release(self) -> None:
        """Gives it back now, and not when it and its views are gone."""
        if self._views:
            raise BufferError("views of this message are still in use")
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer._session._done.append((consumer, self._c))

    def _here(self) -> None:
        if self._consumer is None or not self._consumer._alive() or self._consumer._c is None:
            raise ValueError("this message was released, or its consumer has closed")
        self._consumer._ours()

    def _view(self, at: Any, length: int) -> memoryview:
        self._here()
        if not length:
            return memoryview(b"")
        self._views += 1
        self._consumer._views += 1
        # whatever is cut from the view holds this, and this holds the message
        held = ffi.gc(ffi.cast("char *", at), self._view_gone)
        return memoryview(ffi.buffer(held, length)).toreadonly()

    def _view_gone(self, at: Any) -> None:
        self._views -= 1
        self._consumer._views -= 1

    def __del__(self) -> None:
        if getattr(self, "_consumer", None) is not None:  # whatever thread this is: the session's gives it back
            self._consumer._session._done.append((self._consumer, self._c))


class Consumer(_Stream):
    def __init__(self, session: Session, topic: str, group: str | None, fields: Mapping[str, Any], keep: list[Any]) -> None:
        self._session = session
        self._group = group
        self._views = 0
        self._ahead: list[Message] = []  # fetched, newest first
        p = ffi.new("struct thmq_consumer **")
        o = _options("thmq_consumer_opts", fields, keep)
        _control(lib.thmq_consumer_open(session._raw(), topic.encode(), _name(group), o, p))
        self._enter(p[0])

    def fetch(self, most: int = 64) -> list[Message]:
        """What is there, most of them; may be none. Never waits."""
        if self._ahead:
            taken = self._ahead[-most:][::-1]
            del self._ahead[-most:]
            return taken
        self._session._give_back()
        all_ = ffi.new("struct thmq_message[]", most)
        n = _data(lib.thmq_fetch(self._raw(), all_, most), "thmq_fetch")
        return [Message(self, ffi.new("struct thmq_message *", all_[i])) for i in range(n)]

    def _look(self) -> bool:
        if not self._ahead:
            self._ahead = self.fetch(64)[::-1]
        return bool(self._ahead)

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message; None: none came in that time."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._look():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._session.wait(_SLICE if left is None else min(left, _SLICE))  # another thread may close this one alone
        return self._ahead.pop()

    async def get_async(self, timeout: float | None = None) -> Message | None:
        try:
            await until(self._session, self._look, timeout)
        except TimeoutError:
            return None
        return self._ahead.pop() if self._ahead else await self.get_async(timeout)

    def __iter__(self) -> Iterator[Message]:
        while True:
            message = self.get()
            assert message is not None
            yield message

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            message = await self.get_async()
            assert message is not None
            yield message

    def ack(self, message: Message, txn: Transaction | None = None) -> None:
        """All up to this one, of its partition, is done; in a shared group this one is. The message may have been released. txn: once that is committed."""
        if self._group is None:
            raise ValueError("a reader without a group has nothing to acknowledge")
        if txn is not None:
            self._until_taken("thmq_txn_ack", lambda: lib.thmq_txn_ack(txn._raw(), self._raw(), message._c))
            return
        self._until_taken("thmq_ack", lambda: lib.thmq_ack(self._raw(), message._c))

    def nack(self, message: Message, delay: float | None = 0.0) -> None:
        """Gives a message of a shared group back, to be handed out again behind the delay; None: as backoff says."""
        self._until_taken("thmq_nack", lambda: lib.thmq_nack(self._raw(), message._c, _ns(delay)))

    def extend(self, message: Message, invisible: float) -> None:
        """Keeps a message of a shared group for longer."""
        self._until_taken("thmq_extend", lambda: lib.thmq_extend(self._raw(), message._c, _ns(invisible)))

    def reject(self, message: Message, reason: str | None = None) -> None:
        """A message of a shared group is a dead letter."""
        message._here()
        self._until_taken("thmq_reject", lambda: lib.thmq_reject(self._raw(), message._c, _name(reason)))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until all acknowledgements are stored durably."""
        self._session._blocking(lambda ns: lib.thmq_consumer_flush(self._raw(), ns), timeout)

    def seek(self, start: int, value: int = 0, partition: int = _ALL) -> None:
        """Goes on elsewhere; value: an offset, or ns since 1970."""
        self._ahead.clear()
        _control(lib.thmq_seek(self._raw(), partition, start, value))

    def position(self, partition: int = 0) -> int:
        """All before it was given out, or is nothing for this consumer: its filter or tags take it out."""
        at = ffi.new("uint64_t *")
        _control(lib.thmq_consumer_position(self._raw(), partition, at))
        return min([at[0], *(m.offset for m in self._ahead if m.partition == partition)])

    def _until_taken(self, name: str, call: Any) -> None:
        self._session._give_back()
        while (rc := call()) == -_errno.EAGAIN:
            self._session.wait(0.01)
        _data(rc, name)

    def _in_use(self) -> int:
        return self._views

    def _close(self, c: Any, timeout_ns: int) -> int:
        self._ahead.clear()
        self._session._give_back()
        return self._leave(c, lib.thmq_consumer_close(c, timeout_ns))


# ---------------------------------------------------------------- conversions


def _bytes(data: Bytes, keep: list[Any]) -> Any:
    return ffi.from_buffer(data.encode() if isinstance(data, str) else data)


def _header(h: Any, name: str, value: HeaderValue, keep: list[Any]) -> None:
    if isinstance(value, bool):
        h.type, b = lib.THMQ_HEADER_BOOL, bytes([value])
    elif isinstance(value, int):
        h.type, b = lib.THMQ_HEADER_INT, value.to_bytes(8, "little", signed=True)
    elif isinstance(value, float):
        h.type, b = lib.THMQ_HEADER_REAL, bytes(ffi.buffer(ffi.new("double *", value)))
    elif isinstance(value, str):
        h.type, b = lib.THMQ_HEADER_TEXT, value.encode()
    else:
        h.type, b = lib.THMQ_HEADER_BYTES, bytes(value)
    keep += [ffi.new("char[]", name.encode()), ffi.new("char[]", b)]
    h.name, h.value, h.value_len = keep[-2], keep[-1], len(b)


def _header_value(h: Any) -> HeaderValue:
    b = bytes(ffi.buffer(h.value, h.value_len)) if h.value_len else b""
    if h.type == lib.THMQ_HEADER_TEXT:
        return b.decode(errors="surrogateescape")
    if h.type == lib.THMQ_HEADER_INT and len(b) == 8:
        return int.from_bytes(b, "little", signed=True)
    if h.type == lib.THMQ_HEADER_REAL and len(b) == 8:
        return ffi.cast("double *", ffi.from_buffer(b))[0]
    if h.type == lib.THMQ_HEADER_BOOL and len(b) == 1:
        return b != b"\0"
    return b


def _headers(headers: Any, keep: list[Any]) -> tuple[Any, int]:
    """An array, and how many; of a mapping or of pairs."""
    pairs: list[tuple[str, HeaderValue]] = list(headers.items() if isinstance(headers, Mapping) else headers)
    array = ffi.new("struct thmq_header[]", len(pairs))
    keep.append(array)
    for i, (name, value) in enumerate(pairs):
        _header(array[i], name, value, keep)
    return (array, len(pairs)) if pairs else (ffi.NULL, 0)


def _key(key: Bytes, keep: list[Any]) -> tuple[Any, int]:
    keep.append(ffi.from_buffer(key.encode() if isinstance(key, str) else key))
    return keep[-1], len(keep[-1])


def _batch_message(m: Any, given: Mapping[str, Any], keep: list[Any]) -> None:
    for name in given:
        if name not in ("data", "key", "tag", "headers", "ttl"):
            raise TypeError(f"a message of a batch has no {name}")
    data, key, tag, ttl = given.get("data", b""), given.get("key"), given.get("tag"), given.get("ttl")
    keep.append(_bytes(data, keep))
    m.data, m.len = keep[-1], len(keep[-1])
    if key is not None:
        m.key, m.key_len = _key(key, keep)
    if tag is not None:
        keep.append(ffi.new("char[]", os.fsencode(tag)))
        m.tag = keep[-1]
    m.headers, m.header_count = _headers(given.get("headers") or (), keep)
    if ttl is not None:
        m.ttl_ns = _ns(ttl)


def _message_options(given: Mapping[str, Any], keep: list[Any]) -> Any:
    fields = dict(given)
    key, headers = fields.pop("key", None), fields.pop("headers", ())
    partition, ttl, when = fields.pop("partition", None), fields.pop("ttl", None), fields.pop("time_ns", None)
    ends, keys, txn = fields.pop("expect_end", None), fields.pop("expect_key", None), fields.pop("txn", None)
    o = _options("thmq_message_opts", fields, keep)
    if key is not None:
        o.key, o.key_len = _key(key, keep)
    o.headers, o.header_count = _headers(headers, keep)
    for flag, field, value in ((lib.THMQ_MESSAGE_PARTITION, "partition", partition), (lib.THMQ_MESSAGE_TIME, "time_ns", when),
                               (lib.THMQ_MESSAGE_EXPECT_END, "expected", ends), (lib.THMQ_MESSAGE_EXPECT_KEY, "expected", keys)):
        if value is not None:
            o.flags |= flag
            setattr(o, field, value)
    if ttl is not None:
        o.ttl_ns = _ns(ttl)
    if txn is not None:
        o.txn = txn._raw()
    return o
