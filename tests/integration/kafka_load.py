# SPDX-License-Identifier: Apache-2.0
"""kafka_load.py - a case of kafka_test.py: three brokers under load of every client that there is, while those that lead are killed, and stopped, and begun again."""

import os
import signal
import subprocess
import threading
import time

from kafka_kills import WORKER_C
from kafka_rig import *

HERE = os.path.dirname(os.path.abspath(__file__))


class Load:
    """Who writes numbers to a topic of his own, in two partitions, and groups that read all of them."""

    def __init__(self, url):
        self.url, self.sent, self.once, self.seen, self.failed = url, {}, set(), {}, []
        self.ends, self.all_read = threading.Event(), threading.Event()
        self.threads, self.processes = [], []

    def start(self, call, *args):
        def run():
            try:
                call(*args)
            except BaseException as e:
                self.failed.append('%s: %r' % (call.__name__, e))

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def popen(self, *args):
        p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(p)
        return p

    # ------------------------------------------------------------ who writes

    def by_librdkafka(self, topic):
        p = self.popen(WORKER_C, 'produce', self.url, topic)
        self.ends.wait()
        out, error = p.communicate(timeout=150)
        same(p.returncode, 0, error)
        self.sent[topic] = int(out)

    def by_confluent(self, topic):
        p = confluent_kafka.Producer({**QUICK, 'bootstrap.servers': self.url, 'enable.idempotence': True, 'linger.ms': 5, 'retry.backoff.ms': 50, 'log_level': 0,
                                      'compression.type': 'gzip'})  # which every client can read
        told = lambda e, m: self.failed.append('%s: %s' % (topic, e)) if e else None
        i = 0
        while not self.ends.is_set():
            for _ in range(20):
                p.produce(topic, b'%d' % i, partition=i % 2, on_delivery=told)
                i += 1
            p.poll(0.02)
        same(p.flush(120), 0)
        self.sent[topic] = i

    def by_kafka_python(self, topic):
        p = kafka.KafkaProducer(bootstrap_servers=self.url.split(','), acks='all', retries=10000, max_in_flight_requests_per_connection=1, retry_backoff_ms=50, compression_type='gzip',
                                reconnect_backoff_ms=20, reconnect_backoff_max_ms=200, max_block_ms=120000, request_timeout_ms=30000, linger_ms=5)
        i, told = 0, []
        while not self.ends.is_set():
            told.append(p.send(topic, b'%d' % i, partition=i % 2))
            i += 1
            time.sleep(0.005)
        for t in told:
            t.get(120)
        p.close(10)
        self.sent[topic] = i

    def by_kcat(self, topic):
        p = self.popen('kcat', '-E', '-b', self.url, '-P', '-t', topic, '-z', 'gzip', '-X', 'enable.idempotence=true', '-X', 'linger.ms=5', '-X', 'log_level=0', '-X', 'partitioner=random', '-m', '60',
                       *[x for k, v in QUICK.items() for x in ('-X', '%s=%s' % (k, v))])
        i = 0
        while not self.ends.is_set():
            try:
                p.stdin.write(''.join('%d\n' % (i + k) for k in range(20)))
                p.stdin.flush()
            except BrokenPipeError:
                check(False, 'kcat ends:', p.stderr.read())
            i += 20
            time.sleep(0.02)
        error = p.communicate(timeout=150)[1]
        same(p.returncode, 0, error)
        self.sent[topic] = i

    def by_kafkajs(self, topic, topics):
        p = self.popen('node', HERE + '/kafka_load.js', self.url, topic, ','.join(topics))
        threading.Thread(target=lambda: (self.ends.wait(), p.stdin.close()), daemon=True).start()
        seen = self.seen['kafkajs'] = set()
        for line in p.stdout:
            where, n = line.split()
            if where == 'sent':
                self.sent[topic] = int(n)
            else:
                seen.add((where, int(n)))
        check(self.all_read.is_set(), 'kafkajs ends:', p.stderr.read())

    # ------------------------------------------------------------- who reads

    def read_confluent(self, topics):
        c = confluent_kafka.Consumer({**QUICK_READ, 'bootstrap.servers': self.url, 'group.id': 'confluent', 'auto.offset.reset': 'earliest', 'session.timeout.ms': 10000,
                                      'auto.commit.interval.ms': 200, 'log_level': 0})
        # One by one, not consume(500): that of librdkafka before 2.1 notes each message as read while it still collects, throws them away where the group is shared out
        # anew meanwhile, and commits past them. With its own mock of a broker (test.mock.num.brokers) 2.0.2 loses messages so, too; poll() and 2.15 lose none.
        last = {}  # of each partition, since it was assigned
        c.subscribe(topics, on_assign=lambda c, p: last.clear(), on_revoke=lambda c, p: last.clear())
        seen = self.seen.setdefault('confluent', set())
        while not self.all_read.is_set():
            m = c.poll(0.2)
            if m is None or m.error():
                continue
            at, i = (m.topic(), m.partition()), int(m.value())
            if at in last and m.topic() in ('l-c', 'l-confluent', 'l-js'):  # who writes these says where, and once
                check(i == last[at][0] + 2, at, i, 'behind', last[at], 'offset', m.offset())
            last[at] = i, m.offset()
            seen.add((m.topic(), i))
        c.close()

    def read_kafka_python(self, topics):
        seen = self.seen['python'] = set()
        while not self.all_read.is_set():
            try:
                self.read_once_by_kafka_python(topics, seen)
            except ValueError as e:  # its two threads (2.0.2) trip over a connection that one of them has just closed
                check('Invalid file' in str(e), e)

    def read_once_by_kafka_python(self, topics, seen):
        c = kafka.KafkaConsumer(*topics, bootstrap_servers=self.url.split(','), group_id='python', auto_offset_reset='earliest', session_timeout_ms=10000,
                                heartbeat_interval_ms=1000, auto_commit_interval_ms=200, retry_backoff_ms=50, reconnect_backoff_ms=20, reconnect_backoff_max_ms=200)
        while not self.all_read.is_set():
            for batch in c.poll(200).values():
                for m in batch:
                    seen.add((m.topic, int(m.value)))
        c.close()

    def read_kcat(self, topics):
        p = self.popen('kcat', '-E', '-b', self.url, '-G', 'kcat', '-X', 'auto.offset.reset=earliest', '-X', 'session.timeout.ms=10000', '-X', 'log_level=0', '-u', '-q', '-f', '%t %s\n',
                       *[x for k, v in QUICK_READ.items() for x in ('-X', '%s=%s' % (k, v))], *topics)
        seen = self.seen['kcat'] = set()
        for line in p.stdout:
            where, n = line.split()
            seen.add((where, int(n)))
        check(self.all_read.is_set(), 'kcat ends:', p.stderr.read())


def three_brokers_under_load(b):
    """Who leads is killed, and another time stopped, while each kind of client writes and reads: all of it is there, what was written by idempotent clients once and in
    order, and each kind of group has read it."""
    three = Three(b.dir + '.three-load')
    js = shutil.which('node') and not subprocess.run(['node', '-e', 'require("kafkajs")'], capture_output=True).returncode
    topics = ['l-confluent', 'l-python', 'l-kcat'] + (['l-c'] if WORKER_C else []) + (['l-js'] if js else [])
    load = Load(three.url)
    try:
        three.leader()
        a = confluent_kafka.admin.AdminClient({'bootstrap.servers': three.url, 'log_level': 0})
        for f in a.create_topics([confluent_kafka.admin.NewTopic(t, 2, 3) for t in topics]).values():
            f.result(60)
        if WORKER_C:
            load.start(load.by_librdkafka, 'l-c')
        load.start(load.by_confluent, 'l-confluent')
        load.start(load.by_kafka_python, 'l-python')
        load.start(load.by_kcat, 'l-kcat')
        if js:
            load.start(load.by_kafkajs, 'l-js', topics)
        for read in load.read_confluent, load.read_confluent, load.read_kafka_python, load.read_kcat:
            load.start(read, topics)
        end = time.time() + 100
        while len(load.seen) < (4 if js else 3) or any({t for t, _ in list(seen)} < set(topics) for seen in load.seen.values()):  # all are at work
            check(time.time() < end and not load.failed, 'in time:', {k: len(v) for k, v in load.seen.items()}, load.failed, three.logs())
            time.sleep(0.05)
        for sig in [signal.SIGKILL, signal.SIGTERM] * (5 if FULL else 1):
            time.sleep(1)
            now = three.leader()
            three.processes[now].send_signal(sig)
            three.processes[now].wait(60)
            check(three.leader(60) != now)
            time.sleep(0.5)
            three.start(now)
        time.sleep(0.5)
        load.ends.set()
        end = time.time() + 150
        while len(load.sent) < len(topics):
            check(time.time() < end and not load.failed, 'in time:', load.sent, load.failed, three.logs())
            time.sleep(0.05)
        wanted = {(t, i) for t in topics for i in range(load.sent[t])}
        while any(seen < wanted for seen in load.seen.values()):
            check(time.time() < end and not load.failed, 'in time:', {k: (len(v), len(wanted), sorted(wanted - v)[:5]) for k, v in load.seen.items()}, load.failed, three.logs())
            time.sleep(0.05)
        check(not load.failed, load.failed)
        same(len(load.seen), 4 if js else 3)
        check(all(n > 100 for n in load.sent.values()), load.sent)
        for t in topics:
            rows = [line.split() for line in read_all(three, t, '-X', 'log_level=0', '-f', '%p %s\n')]
            for p in '0', '1':
                got = [int(x) for at, x in rows if at == p]
                if t == 'l-python': # it sends again what it got no answer for, and says so to nobody
                    got = list(dict.fromkeys(got))
                if t == 'l-kcat': # it chooses the partition itself
                    check(got == sorted(set(got)), t, p)
                else:
                    same(got, list(range(int(p), load.sent[t], 2)), t)
            same({int(x) for _, x in rows}, set(range(load.sent[t])), t)
    except BaseException:
        print(load.failed, three.logs())
        raise
    finally:
        load.ends.set()
        load.all_read.set()
        for p in load.processes:
            p.kill()
        for t in load.threads:
            t.join(20)
        three.stop(signal.SIGKILL)
