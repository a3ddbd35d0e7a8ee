# SPDX-License-Identifier: Apache-2.0
"""The Python package: what it promises beyond the calls that it makes. Exit: 0, or a traceback."""

import asyncio
import gc
import os
import signal
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import thundermq
from thundermq import ffi, lib


class Case(unittest.TestCase):
    def setUp(self):
        self.env = thundermq.Environment()
        self.broker = self.env.broker()
        self.session = self.env.connect()
        self.session.create_topic("t", volatile=True)

    def tearDown(self):
        gc.collect()
        self.env.close()

    def send(self, *texts):
        producer = self.session.producer("t")
        for text in texts:
            producer.send(text)
        producer.flush(5)


class Bindable(Case):
    """Nothing of the header needs a macro."""

    def test_every_options_struct_has_its_defaults_by_a_call(self):
        names = [n[: -len("_init")] for n in dir(lib) if n.endswith("_opts_init")]
        self.assertGreaterEqual(len(names), 8)
        for name in names:
            o = ffi.new(f"struct {name} *")
            getattr(lib, name + "_init")(o, ffi.sizeof(f"struct {name}"))
            self.assertEqual(o.size, ffi.sizeof(f"struct {name}"), name)

    def test_every_function_of_the_header_is_there(self):
        # a name that the library lacks would raise here
        self.assertGreaterEqual(sum(callable(getattr(lib, n)) for n in dir(lib) if n.startswith("thmq_")), 60)

    def test_enums_are_those_of_the_header(self):
        for kind, prefix in ((thundermq.Durability, "THMQ_DURABILITY_"), (thundermq.Policy, "THMQ_POLICY_"),
                             (thundermq.ErrorClass, "THMQ_CLASS_"), (thundermq.EventType, "THMQ_EVENT_")):
            self.assertEqual({prefix + k.name: k.value for k in kind}, {n: getattr(lib, n) for n in dir(lib) if n.startswith(prefix)})
        for k in thundermq.Start:
            self.assertEqual(k.value, getattr(lib, "THMQ_START_" + k.name))


class Forks(unittest.TestCase):
    """What a child does with its parent's objects is an error, in each of its forms: it does not hang, nothing that was sent is lost in silence, and the parent goes on."""

    def in_child(self, do):
        """What do() raises there: a name and a number."""
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(30)
                try:
                    do()
                    what = "nothing"
                except thundermq.Error as e:
                    what = e.name
                except BaseException as e:
                    what = repr(e)
                os.write(into, what.encode()[:1000])
            finally:
                os._exit(0)
        os.close(into)
        with os.fdopen(out) as f:
            what = f.read()
        return what, os.waitpid(child, 0)[1]

    def of_parent(self, where, cores, listen):
        with thundermq.Environment(cores=cores) as env, env.broker(data_dir=where + "/data", **({"listen": listen} if listen else {})) as broker:
            with env.connect(broker.listen_urls()[0] if listen else "inproc://") as session:
                session.create_topic("t")
                producer, consumer = session.producer("t"), session.consumer("t", group="g")
                producer.send(b"x")
                producer.flush(30)
                message = consumer.get(timeout=30)
                for do in (lambda: producer.send(b"lost?"), lambda: producer.claim(8), lambda: producer.watermark, lambda: producer.flush(1),
                           lambda: consumer.fetch(), lambda: consumer.get(timeout=1), lambda: consumer.ack(message), lambda: message.data,
                           lambda: session.events(), lambda: session.wait(1), lambda: session.transaction(), lambda: session.close(),
                           lambda: env.poll(), lambda: env.connect("inproc://"), lambda: env.close()):
                    self.assertEqual(self.in_child(do), ("EINVAL", 0))

                def anew():
                    del globals_of_parent[:]
                    gc.collect()
                    with thundermq.Environment() as own, own.broker(), own.connect() as s:
                        s.create_topic("t", volatile=True)
                        s.producer("t").send(b"y")

                globals_of_parent = [message]
                self.assertEqual(self.in_child(anew), ("nothing", 0))
                globals_of_parent.clear()
                consumer.ack(message)
                producer.send(b"z")
                producer.flush(30)
                self.assertEqual(bytes(consumer.get(timeout=30).data), b"z")
                del message

    def test_within_the_process(self):
        with tempfile.TemporaryDirectory() as where:
            self.of_parent(where, 0, None)

    def test_through_shared_memory(self):
        with tempfile.TemporaryDirectory() as where:
            self.of_parent(where, 1, f"shm://{where}/socket")

    def test_through_a_socket(self):
        with tempfile.TemporaryDirectory() as where:
            self.of_parent(where, 1, "tcp://127.0.0.1:0")


class Calls(Case):
    def test_errors_have_number_name_class_and_text(self):
        with self.assertRaises(thundermq.Error) as e:
            self.session.delete_topic("absent")
        self.assertEqual((e.exception.name, e.exception.number), ("THMQ_ENOTOPIC", 1029))
        self.assertEqual(e.exception.kind, thundermq.ErrorClass.CALLER)
        self.assertIn("absent", str(e.exception))
        with self.assertRaises(TypeError):
            self.env.broker(no_such_option=1)
        with self.assertRaisesRegex(OverflowError, "option prefetch_count"):
            self.session.consumer("t", prefetch_count=-1)
        with self.assertRaisesRegex(TypeError, "option prefetch_count"):
            self.session.consumer("t", prefetch_count="many")

    def test_a_message_comes_with_all_that_it_had(self):
        consumer = self.session.consumer("t")
        producer = self.session.producer("t")
        headers = [("n", -5), ("r", 2.5), ("b", True), ("s", "ä"), ("raw", b"\0\xff"), ("n", 6)]
        producer.send("ä", key=b"k", tag="red", headers=headers, time_ns=1_600_000_000_000_000_000)
        producer.send(b"", key="text")
        producer.flush(5)
        m = consumer.get(5)
        self.assertEqual((bytes(m.data).decode(), bytes(m.key), m.tag, m.headers), ("ä", b"k", "red", headers))
        self.assertEqual((m.time_ns, m.partition, m.offset), (1_600_000_000_000_000_000, 0, 0))
        m = consumer.get(5)
        self.assertEqual((bytes(m.data), bytes(m.key), m.tag, m.headers), (b"", b"text", None, []))
        self.assertIsNone(consumer.get(0.01))

    def test_messages_that_go_together_come_with_all_that_they_had(self):
        consumer, producer = self.session.consumer("t"), self.session.producer("t")
        headers = [("n", -5), ("s", "ä")]
        self.assertEqual(producer.send_batch(["ä", {"data": b"second", "key": "k", "tag": "red", "headers": headers, "ttl": 3600}, memoryview(b"")], partition=0), 1)
        self.assertEqual(producer.try_send_batch({"data": b"%d" % i, "key": b"k"} for i in range(2)), 2)
        producer.flush(5)
        came = [consumer.get(5) for _ in range(5)]
        self.assertEqual([bytes(m.data) for m in came], ["ä".encode(), b"second", b"", b"0", b"1"])
        self.assertEqual([m.offset for m in came], list(range(5)))
        self.assertEqual((bytes(came[1].key), came[1].tag, came[1].headers), (b"k", "red", headers))
        self.assertEqual((came[0].key, came[0].tag, came[0].headers), (None, None, []))
        too_long = [b"x", {"data": b"x", "key": b"k" * (lib.THMQ_KEY_MAX + 1)}]
        for wrong, which in (([], "not 0"), ([b"x"] * (lib.THMQ_BATCH_MAX + 1), "not 4097"), (too_long, "key of message 1 has 4097 bytes")):
            with self.assertRaisesRegex(thundermq.Error, "thmq_send_batch: .*" + which) as raised:
                producer.send_batch(wrong)
            self.assertEqual(raised.exception.name, "EINVAL")
        with self.assertRaisesRegex(TypeError, "has no partition"):
            producer.send_batch([{"data": b"x", "partition": 0}])
        with self.assertRaises(thundermq.Error):
            producer.send_batch([b"x"], delay_ns=1)

    def test_a_claim_is_written_in_place(self):
        producer, consumer = self.session.producer("t"), self.session.consumer("t")
        claim = producer.claim(5)
        with claim as room:
            room[:] = b"hello"
        self.assertEqual(claim.sequence, 1)
        with self.assertRaises(ValueError):
            room[0] = 0  # it is the library's now
        with self.assertRaises(ZeroDivisionError), producer.claim(5):
            1 / 0
        producer.flush(5)
        self.assertEqual([bytes(consumer.get(5).data), consumer.get(0.05)], [b"hello", None])

    def test_full_is_none_and_send_waits(self):
        with self.env.connect(window_count=16) as small:
            producer = small.producer("t")
            n = 0
            while producer.try_send(b"x"):
                n += 1
            self.assertGreaterEqual(n, 15)
            self.assertEqual(producer.send(b"x"), n + 1)
            while producer.try_send_batch([b"x", b"y"]):
                n += 1
            self.assertEqual(producer.send_batch([b"x", b"y"]), n + 2)

    def test_a_reader_without_a_group_has_nothing_to_acknowledge(self):
        self.send("a")
        consumer = self.session.consumer("t")
        with self.assertRaises(ValueError):
            consumer.ack(consumer.get(5))

    def test_groups_and_topics(self):
        self.send("a", "b")
        consumer = self.session.consumer("t", group="g")
        m = consumer.get(5)
        consumer.ack(m)
        consumer.flush(5)
        self.assertEqual(self.session.partition("t", 0, "g")["lag"], 1)
        self.assertEqual(self.session.topic("t")["group_count"], 1)
        self.assertEqual([t["name"] for t in self.session.topics()], ["t"])
        consumer.seek(thundermq.Start.BEGIN)
        self.assertEqual(consumer.get(5).offset, 0)
        kinds = [e.type for e in self.session.events()]
        self.assertIn(thundermq.EventType.ASSIGNED, kinds)

    def comes_to(self, read, wanted):
        end = time.monotonic() + 30
        while read() != wanted and time.monotonic() < end:
            self.session.wait(0.01)
        self.assertEqual(read(), wanted)

    def test_groups_are_looked_after(self):
        self.session.create_topic("many", partitions=17, volatile=True)  # more than there is room for at first
        self.session.producer("many").send(b"a", partition=3)
        consumer = self.session.consumer("many", group="g")
        self.assertIsNotNone(consumer.get(5))
        self.assertEqual([g["name"] for g in self.session.groups("many")], ["g"])
        self.assertEqual([(m["partition_count"], m["away"]) for m in self.session.group_members("many", "g")], [(17, 0)])
        self.comes_to(lambda: self.session.group_owners("many", "g"), [0] * 17)
        with self.assertRaises(thundermq.Error) as e:
            self.session.reset_group("many", "g", thundermq.Start.END)
        self.assertEqual((e.exception.name, e.exception.kind.name), ("EBUSY", "RETRY"))
        consumer.close(5)
        self.comes_to(lambda: (self.session.group("many", "g")["reader_count"], self.session.group_members("many", "g")), (0, []))
        self.assertEqual(self.session.group_owners("many", "g"), [None] * 17)
        self.assertEqual(self.session.group("many", "g")["lag"], 1)
        self.session.reset_group("many", "g", thundermq.Start.END)
        self.assertEqual(self.session.group("many", "g")["lag"], 0)
        self.session.reset_group("many", "g", thundermq.Start.BEGIN, partition=3)
        self.assertEqual(self.session.partition("many", 3, "g")["lag"], 1)
        consumer = self.session.consumer("many", group="g")
        self.assertIsNotNone(consumer.get(5))
        self.session.delete_group("many", "g", force=True)
        self.assertEqual(self.session.groups("many"), [])
        with self.assertRaises(thundermq.Error) as e:
            self.session.group("many", "g")
        self.assertEqual((e.exception.name, e.exception.kind), ("ENOENT", thundermq.ErrorClass.CALLER))

    def test_a_topic_gets_more_partitions(self):
        self.session.alter_topic("t", partitions=3)
        self.session.alter_topic("t", partitions=3, ttl_ns=10**12)
        self.assertEqual([self.session.topic("t")[k] for k in ("partition_count", "ttl_ns")], [3, 10**12])
        with self.assertRaises(thundermq.Error) as e:
            self.session.alter_topic("t", partitions=2)
        self.assertIn("has 3 partitions", str(e.exception))

    def test_events_tell_whose_they_are(self):
        producer = self.session.producer("t", report=True)
        producer.send(b"x")
        producer.flush(5)
        e = [e for e in self.session.events() if e.type == thundermq.EventType.SETTLED][0]
        self.assertIs(e.source, producer)
        self.assertIsNone(e.error)


class Durable(unittest.TestCase):
    def test_shared_groups_retries_and_keys_on_disk_and_over_tcp(self):
        with tempfile.TemporaryDirectory(dir=".") as d, thundermq.Environment(cores=1) as env, \
                env.broker(Path(d) / "data", listen="tcp://127.0.0.1:0") as broker, env.connect(broker.listen_urls()[0]) as session:
            session.create_topic("jobs")
            session.create_topic("dead")
            producer = session.producer("jobs", name="me")
            producer.send(b"bad", key="k")
            producer.flush(10)
            self.assertEqual(session.find_key("jobs", "k")["offset"], 0)
            self.assertIsNone(session.find_key("jobs", "none"))
            with self.assertRaises(thundermq.Error):
                producer.send(b"x", expect_end=7)
                producer.flush(10)
            worker = session.consumer("jobs", "w", shared=True, deliver_max=5, dead_topic="dead", backoff=[0.001])
            m = worker.get(10)
            self.assertEqual(m.deliveries, 1)
            worker.nack(m, None)
            del m
            m = worker.get(10)
            self.assertEqual(m.deliveries, 2)
            worker.reject(m, "no good")
            m.release()
            m = session.consumer("dead").get(10)
            self.assertEqual(dict(m.headers)["thmq-dead-reason"], "no good")
            del m


class Transactions(unittest.TestCase):
    def read(self, session, topic):
        """All of a topic up to where it ends."""
        consumer, end, out = session.consumer(topic), session.partition(topic)["end_offset"], []
        while consumer.position() < end:
            m = consumer.get(0.1)
            if m is not None:
                out.append(bytes(m.data))
                m.release()
        consumer.close()
        return out

    def test_they_count_all_or_not_at_all(self):
        with tempfile.TemporaryDirectory(dir=".") as d:
            with thundermq.Environment() as env, env.broker(Path(d) / "data"), env.connect() as session:
                session.create_topic("in")
                session.create_topic("out")
                source, out, consumer = session.producer("in"), session.producer("out"), session.consumer("in", "g")
                source.send(b"x")
                source.flush(10)
                with session.transaction() as t:
                    m = consumer.get(10)
                    out.send(b"a", txn=t)
                    consumer.ack(m, txn=t)
                    del m
                    self.assertEqual([(i["id"], i["state"], i["identity"]) for i in session.transactions()], [(t.id, 1, "local")])
                with self.assertRaises(thundermq.Error):
                    t.commit()  # it is over
                with self.assertRaises(KeyError), session.transaction() as t:
                    out.send(b"never", txn=t)
                    raise KeyError
                with session.transaction() as t:
                    out.send(b"neither", txn=t)
                    t.abort()
                t = session.transaction()
                out.send(b"nor this", txn=t)
                session.force_transaction(t.id)
                with self.assertRaises(thundermq.Error) as e:
                    t.commit()
                self.assertEqual(e.exception.name, "ECANCELED")
                with session.transaction("shop", check_ns=10**6) as t:
                    out.send(b"b", txn=t)
                    t.prepare()
                    number = t.id
                with self.assertRaises(thundermq.Error) as e:
                    session.force_transaction(number + 1000, commit=True)
                self.assertEqual(e.exception.name, "ENOENT")
                self.assertEqual([i["name"] for i in session.transactions()], ["shop"])
                self.assertEqual(self.read(session, "out"), [b"a"])
            with thundermq.Environment() as env, env.broker(Path(d) / "data"), env.connect() as session:
                session.watch_transactions("shop")
                asked = []
                while not asked:  # the broker asks back
                    session.wait(1)
                    asked = [e.sequence for e in session.events() if e.type == thundermq.EventType.TXN_CHECK]
                self.assertEqual(asked[0], number)
                session.decide_transaction(number, True)
                while session.transactions():
                    session.wait(0.01)
                self.assertEqual(self.read(session, "out"), [b"a", b"b"])
                self.assertEqual(session.partition("in", 0, "g")["group_offset"], 1)


class Views(Case):
    """Zero copies, and no way to a byte that is not there any more."""

    def test_a_view_keeps_its_message(self):
        self.send("a" * 100)
        consumer = self.session.consumer("t", prefetch_count=1)
        view = consumer.get(5).data[10:20]  # the message itself is gone, a part of it is looked at
        gc.collect()
        self.assertTrue(view.readonly)
        self.assertEqual(bytes(view), b"a" * 10)
        for close in (consumer.close, self.session.close, self.env.close):
            with self.assertRaises(BufferError):
                close()
        self.assertEqual(bytes(view), b"a" * 10)
        del view
        consumer.close()

    def test_messages_that_nobody_has_are_given_back(self):
        consumer = self.session.consumer("t", prefetch_count=4)
        self.send(*"abcdefghijklmnop")
        self.assertEqual(b"".join(bytes(consumer.get(5).data) for _ in range(16)), b"abcdefghijklmnop")

    def test_released_is_released(self):
        self.send("a")
        m = self.session.consumer("t").get(5)
        view = m.data
        with self.assertRaises(BufferError):
            m.release()
        del view
        m.release()
        m.release()
        with self.assertRaises(ValueError):
            m.data

    def test_what_outlives_its_environment_says_so(self):
        self.send("a")
        consumer = self.session.consumer("t")
        m = consumer.get(5)
        self.env.close()
        with self.assertRaises(ValueError):
            m.data
        for call in (consumer.fetch, lambda: self.session.wait(0), self.session.topics, self.env.poll):
            with self.assertRaises(thundermq.Error) as e:
                call()
            self.assertEqual(e.exception.name, "ESHUTDOWN")
        consumer.close()
        self.session.close()


class Loops(unittest.TestCase):
    def run_both(self, cores):
        async def main():
            with thundermq.Environment(cores=cores) as env, env.broker(), env.connect() as one, env.connect() as two:
                one.create_topic("t", volatile=True)
                got = []

                async def read(consumer, n):
                    async for m in consumer:
                        got.append(bytes(m.data))
                        consumer.ack(m)
                        if len(got) >= n:
                            return

                async def write(producer):
                    for i in range(200):
                        await (producer.send_async(b"%d" % i) if i % 2 else producer.send_batch_async([b"%d" % i]))
                        if i % 50 == 0:
                            await asyncio.sleep(0.001)
                    await producer.flush_async(10)

                idle = one.consumer("t")  # whose messages nobody takes: the others go on
                await asyncio.wait_for(asyncio.gather(read(two.consumer("t", group="g"), 200), write(one.producer("t"))), 20)
                self.assertEqual(got, [b"%d" % i for i in range(200)])
                idle.close()
                self.assertIsNone(await two.consumer("t", start=thundermq.Start.END).get_async(0.01))
                self.assertEqual(env._bells, {})

        asyncio.run(main())

    def test_a_loop_that_drives_the_core(self):
        self.run_both(0)

    def test_a_loop_beside_a_core_of_the_library(self):
        self.run_both(1)

    def test_a_session_that_closes_lets_nobody_wait(self):
        async def main():
            with thundermq.Environment() as env, env.broker(), env.connect() as session:
                session.create_topic("t", volatile=True)
                waits = asyncio.ensure_future(session.consumer("t").get_async())
                await asyncio.sleep(0.01)
                session.close()
                with self.assertRaises((asyncio.CancelledError, thundermq.Error)):
                    await waits

        asyncio.run(main())


class Threads(unittest.TestCase):
    def test_a_wait_lets_others_run_and_wakes(self):
        with thundermq.Environment(cores=1) as env, env.broker(), env.connect() as session:
            session.create_topic("t", volatile=True)
            consumer = session.consumer("t")

            def later():
                time.sleep(0.05)
                with env.connect() as other:
                    with other.producer("t") as producer:
                        producer.send(b"from a thread")
                        producer.flush(5)

            thread = threading.Thread(target=later)
            thread.start()
            message = consumer.get(10)
            thread.join()
            self.assertEqual(bytes(message.data), b"from a thread")
            del message


class Requests(unittest.TestCase):
    def test_a_question_is_answered_and_groups_tell_who_listens(self):
        with thundermq.Environment(cores=1) as env, env.broker(), env.connect() as session:
            session.create_topic("questions", volatile=True)

            def answer():
                with env.connect() as mine, mine.consumer("questions", "clerks", filter="lang = 'en'") as consumer:
                    m = consumer.get(10)
                    groups = mine.groups("questions")
                    mine.reply(m, bytes(m.data).upper() + groups[0]["name"].encode())
                    consumer.ack(m)
                    m.release()

            thread = threading.Thread(target=answer)
            thread.start()
            producer = session.producer("questions")
            producer.send(b"was?", headers={"lang": "de"})
            self.assertEqual(producer.call(b"what? ", 10, headers={"lang": "en"}), b"WHAT? clerks")
            thread.join()
            with self.assertRaises(thundermq.Error) as e:
                producer.call(b"nobody", 0.05)
            self.assertEqual(e.exception.name, "ETIMEDOUT")


class Closing(unittest.TestCase):
    """By another thread than the one that waits, which is told so instead of waiting in what is gone."""

    def closes(self, which, wait):
        env = thundermq.Environment(cores=1)
        env.broker()
        session = env.connect()
        session.create_topic("t", volatile=True)
        consumer = session.consumer("t", "g")
        heard = []

        def waits():
            try:
                heard.append(wait(session, consumer))
            except thundermq.Error as e:
                heard.append(e.name)

        thread = threading.Thread(target=waits)
        thread.start()
        end = time.monotonic() + 30
        while not session._inside and time.monotonic() < end:
            time.sleep(0.001)
        {"env": env, "session": session, "consumer": consumer}[which].close()
        thread.join(30)
        self.assertFalse(thread.is_alive())
        self.assertEqual(heard, ["ESHUTDOWN"])
        env.close()

    def test_the_environment_goes(self):
        self.closes("env", lambda session, consumer: consumer.get(60))

    def test_the_session_goes(self):
        self.closes("session", lambda session, consumer: consumer.get(60))

    def test_the_consumer_goes(self):
        self.closes("consumer", lambda session, consumer: consumer.get(60))

    def test_who_waits_may_close_it_himself(self):
        with thundermq.Environment(cores=1) as env, env.broker(), env.connect() as session:
            session._slice(lambda ns: session.close() or 0, 0)
            with self.assertRaises(thundermq.Error):
                session.wait(0)


if __name__ == "__main__":
    print(thundermq.version(), sys.version)
    unittest.main()
