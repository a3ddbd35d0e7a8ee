# SPDX-License-Identifier: Apache-2.0
"""kafka_kills.py - cases of kafka_test.py: clients that are killed in each step of a transaction, and of a group's join. What they had not committed is not
there, what they had is, once, and those behind them go on."""

import os
import random
import subprocess
import sys
import threading
import time

from kafka_rig import *

HERE = os.path.dirname(os.path.abspath(__file__))
WORKER_C = os.environ.get('KAFKA_WORKER')  # kafka_worker.c, where librdkafka's header was there
COUNT = 60
STEPS = 'started', 'init', 'subscribed', 'read', 'begun', 'produced', 'flushed', 'offsets', 'committing', 'committed'


class Worker:
    """One that reads, makes something of it, and writes that, in transactions; by librdkafka from C, or by Python."""

    def __init__(self, b, of, id, timeout_ms=60000, stop='', c=True, count=COUNT):
        program = [WORKER_C] if c and WORKER_C else [sys.executable, HERE + '/kafka_worker.py']
        self.process = subprocess.Popen([*program, 'transform', b.url, 'from-' + of, 'to-' + of, 'group-' + of, id, str(timeout_ms), str(count), *([stop] if stop else [])],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def comes_to(self, step):
        for line in self.process.stdout:
            if line.strip() == step:
                return True
        error = self.process.communicate()[1]
        same(self.process.returncode, 3, error)  # it was too slow for its group
        return False

    def kill(self):
        self.process.kill()
        self.process.communicate()


def in_threads(calls):
    failed = []

    def run(call):
        try:
            call()
        except BaseException as e:
            failed.append(repr(e))

    threads = [threading.Thread(target=run, args=(c,)) for c in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(not failed, failed)


def to_the_end(b, of, id, **more):
    """Others of the same kind, until one has found nothing more to do: one that lost its place, or its transaction, ends."""
    end = time.time() + 200
    while True:
        w = Worker(b, of, id, **more)
        try:
            error = w.process.communicate(timeout=max(1, end - time.time()))[1]
        except subprocess.TimeoutExpired:
            w.kill()
            check(False, of, 'does not come to its end')
        if w.process.returncode == 0:
            return
        check(w.process.returncode == 3 and time.time() < end, of, w.process.returncode, error)


def fill(b, of, count=COUNT):
    a = confluent_kafka.admin.AdminClient({'bootstrap.servers': b.url, 'log_level': 0})
    for f in a.create_topics([confluent_kafka.admin.NewTopic('from-' + of, 4, 1), confluent_kafka.admin.NewTopic('to-' + of, 1, 1)]).values():
        f.result(60)
    p = confluent_kafka.Producer({**QUICK, 'bootstrap.servers': b.url, 'linger.ms': 5, 'log_level': 0})
    for i in range(count):
        p.produce('from-' + of, b'%d' % i, partition=i % 4)
    same(p.flush(60), 0)


def once_each(b, of, count=COUNT):
    try:
        comes_to(lambda: sorted(int(x) for x in read_all(b, 'to-' + of)), list(range(count)), 150)
    except AssertionError:
        print(of, 'has, committed or not:', read_all(b, 'to-' + of, '-X', 'isolation.level=read_uncommitted', '-f', '%o:%s '))
        raise


def clients_killed_in_each_step(b):
    """With kill -9, in every step from the start to behind the commit. The next one has its name, and goes on at once; or another, and does when the time of what was open is over."""
    kinds = [(step, True, True) for step in STEPS] + [('flushed', True, False), ('offsets', True, False)]
    kinds += [(step, False, True) for step in (STEPS if FULL else ('offsets', 'committing'))]

    def one(number, step, c, same_id):
        of = 'step-%d' % number
        fill(b, of)
        w = Worker(b, of, of + '-id', 60000 if same_id else 1500, step, c)
        while not w.comes_to(step):
            w = Worker(b, of, of + '-id', 60000 if same_id else 1500, step, c)
        if step == 'subscribed':
            time.sleep(random.random() * 0.6)  # while it joins
        if step == 'committing':
            time.sleep(random.random() * 0.005)
        w.kill()
        to_the_end(b, of, of + ('-id' if same_id else '-other'), c=c)
        once_each(b, of)

    in_threads([lambda n=n, k=k: one(n, *k) for n, k in enumerate(kinds)])


def members_killed_by_chance(b):
    """Three of a group, each killed whenever that is, and begun again: among them they do each message once."""
    count, kills = (2000, 20) if FULL else (200, 2)
    fill(b, 'chance', count)

    def slot(n):
        for _ in range(kills):
            w = Worker(b, 'chance', 'chance-%d' % n, count=count)
            try:
                w.process.communicate(timeout=random.random() * 1.5)  # it may end by itself
            except subprocess.TimeoutExpired:
                w.kill()
        to_the_end(b, 'chance', 'chance-%d' % n, count=count)

    in_threads([lambda n=n: slot(n) for n in range(3)])
    once_each(b, 'chance', count)
