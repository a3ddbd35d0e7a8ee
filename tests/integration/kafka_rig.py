#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kafka_rig.py - what the cases of kafka_test.py share: brokers, the programs that are run beside them, requests by hand. The first two arguments of the program are KAFKA and THMQ."""

import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

FULL = bool(os.environ.get('THMQ_TEST_FULL'))
KAFKA, THMQ = sys.argv[1:3]

try:
    import confluent_kafka
    import confluent_kafka.admin
    import kafka
    import kafka.admin
    import kafka.record
except ImportError as e:
    print('kafka_test: skipped:', e)
    sys.exit(77)
if not shutil.which('kcat'):
    print('kafka_test: skipped: no kcat')
    sys.exit(77)


def check(ok, *what):
    if not ok:
        raise AssertionError(' '.join(str(w) for w in what))


def same(a, b, what=''):
    check(a == b, what, repr(a)[:600], 'is not', repr(b)[:600])


class Broker:
    def __init__(self, dir, *args, program=[KAFKA]):
        self.dir, self.args, self.program = dir, args, program
        self.port = self.port_tls = None
        self.start()

    def start(self, port=0, host='127.0.0.1'):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.native = 'tcp://127.0.0.1:%d' % s.getsockname()[1]
        self.log = open(self.dir + '.log', 'a')
        self.process = subprocess.Popen([*self.program, '--data', self.dir, '--listen', '%s:%d' % (host, port), '--thmq', self.native,
                                         *self.args], stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        check('serving' in line, 'the broker says:', line, open(self.dir + '.log').read()[-2000:])
        words = line.replace(',', '').split()
        ports = [int(words[i + 1]) for i, w in enumerate(words) if w == 'port']
        self.port, self.port_tls = ports[0], ports[-1]
        self.url = '%s:%d' % (host, self.port)

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        status = self.process.wait(60)
        same(status, 0 if sig == signal.SIGTERM else -sig, open(self.dir + '.log').read()[-2000:])
        self.log.close()

    def restart(self, sig=signal.SIGTERM):
        self.stop(sig)
        self.start(self.port)


# what clients wait for by themselves: half a second at the end of a partition, a quarter until they ask again where a topic is
QUICK = {'topic.metadata.refresh.fast.interval.ms': 20, 'reconnect.backoff.ms': 20, 'reconnect.backoff.max.ms': 200}
QUICK_READ = {**QUICK, 'fetch.wait.max.ms': 20, 'fetch.error.backoff.ms': 20}


def kcat(broker, *args, stdin=None, url=None, fails=False, timeout=90):
    quick = [x for k, v in (QUICK_READ if '-C' in args else QUICK).items() for x in ('-X', '%s=%s' % (k, v))]
    p = subprocess.run(['kcat', '-b', url or broker.url, '-m', '30', *quick, *args], input=stdin, capture_output=True, text=True, timeout=timeout)
    check(fails == (p.returncode != 0), 'kcat', args, p.returncode, p.stderr)
    return p.stderr if fails else p.stdout


def thmq(*args, stdin=None):
    p = subprocess.run([THMQ, *args], input=stdin, capture_output=True, text=True, timeout=30)
    same(p.returncode, 0, str(args) + p.stderr)
    return p.stdout


def read_all(broker, topic, *args):
    return kcat(broker, '-C', '-t', topic, '-o', 'beginning', '-e', '-q', *args).splitlines()


def frame(api, version, body=b'', correlation=7):
    head = struct.pack('>hhih', api, version, correlation, 1) + b'x'
    return struct.pack('>i', len(head) + len(body)) + head + body


def answer(s):
    def exactly(n):
        got = b''
        while len(got) < n:
            more = s.recv(n - len(got))
            if not more:
                return None
            got += more
        return got

    head = exactly(4)
    return head and exactly(struct.unpack('>i', head)[0])


def text(s):  # a compact string
    return bytes([len(s) + 1]) + s


VERSIONS = {0: (3, 9), 1: (4, 12), 2: (1, 7), 3: (0, 12), 8: (2, 8), 9: (1, 8), 10: (0, 4), 11: (0, 9), 12: (0, 4), 13: (0, 5), 14: (0, 5), 15: (0, 5),
            16: (0, 4), 17: (0, 1), 18: (0, 3), 19: (0, 7), 20: (0, 5), 22: (0, 4), 24: (0, 3), 25: (0, 3), 26: (0, 3), 28: (0, 3), 32: (0, 4), 33: (0, 2), 36: (0, 2), 37: (0, 3), 42: (0, 2), 44: (0, 1), 47: (0, 0)}
FLEXIBLE = {0: 9, 1: 12, 2: 6, 3: 9, 8: 8, 9: 6, 10: 3, 11: 6, 12: 4, 13: 4, 14: 4, 15: 5, 16: 3, 18: 3, 19: 5, 20: 4, 22: 2, 24: 3, 25: 3, 26: 3, 28: 3, 32: 4, 33: 2, 36: 2, 37: 2, 42: 2, 44: 1, 65: 0, 66: 0}


def transactional(b, name, **more):
    p = confluent_kafka.Producer({'bootstrap.servers': b.url, 'transactional.id': name, 'linger.ms': 1, 'reconnect.backoff.max.ms': 100,
                                  'retry.backoff.ms': 50, 'log_level': 0, **more})
    p.init_transactions(20)
    return p


def patiently(call):
    """Commits or aborts. A time-out only says that it is to be asked again; and must be: of a batch that was under way when its broker died
    librdkafka (2.0) neither sends it again while it aborts, nor gives it up, until then."""
    for attempt in range(100):
        try:
            return call(1)
        except confluent_kafka.KafkaException as e:
            if attempt == 99 or not e.args[0].retriable():
                raise


def comes_to(read, wanted, seconds=30):
    """What is committed is seen a moment later."""
    end = time.time() + seconds
    while read() != wanted and time.time() < end:
        time.sleep(0.05)
    same(read(), wanted)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Three:
    """Three brokers that keep the same data."""

    def __init__(self, dir):
        ports = [[free_port() for _ in range(3)] for _ in range(3)]  # of Kafka's clients, of the library's, among themselves
        self.dir, self.kafka = dir, ['127.0.0.1:%d' % p[0] for p in ports]
        self.native = ['tcp://127.0.0.1:%d' % p[1] for p in ports]
        self.cluster = ','.join('%d=%s+%d' % (i + 1, self.native[i], p[2]) for i, p in enumerate(ports))
        self.peers = ','.join('%d=%s' % (i + 1, k) for i, k in enumerate(self.kafka))
        self.url = ','.join(self.kafka)
        self.processes = [None] * 3
        for i in range(3):
            self.start(i)

    def start(self, i):
        with open('%s.%d.log' % (self.dir, i), 'a') as log:
            self.processes[i] = subprocess.Popen(
                [KAFKA, '--data', '%s.%d' % (self.dir, i), '--listen', self.kafka[i], '--thmq', self.native[i], '--cluster', self.cluster,
                 '--cluster-name', 'test', '--node-id', str(i + 1), '--peers', self.peers], stdout=log, stderr=log)

    def leader(self, seconds=30):
        """Which one leads, as clients hear it."""
        end = time.time() + seconds
        while time.time() < end:
            p = subprocess.run(['kcat', '-b', self.url, '-L', '-J', '-m', '2', '-X', 'log_level=0'], capture_output=True, text=True)
            try:
                id = json.loads(p.stdout)['controllerid']
                if id > 0 and self.processes[id - 1].poll() is None:
                    return id - 1
            except (ValueError, KeyError):
                pass
            time.sleep(0.1)
        check(False, 'nobody leads:', p.stdout, p.stderr, self.logs())

    def logs(self):
        return [open('%s.%d.log' % (self.dir, i)).read()[-1000:] for i in range(3)]

    def stop(self, sig):
        for p in self.processes:
            if p.poll() is None:
                p.send_signal(sig)
        for p in self.processes:
            p.wait(60)
