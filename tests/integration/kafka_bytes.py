# SPDX-License-Identifier: Apache-2.0
"""kafka_bytes.py - cases of kafka_test.py: requests by hand, those that make sense and those that do not, and clients that go away, or ask for too much."""

import gzip
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import time

from kafka_rig import *


def what_makes_no_sense(b):
    """Each ends its own connection, or gets its error; others notice nothing."""
    def talk(*parts, end=True):
        with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
            try:
                for part in parts:
                    s.sendall(part)
                got = answer(s)
            except (ConnectionResetError, BrokenPipeError):
                got = None
            check((got is None) == end, parts[0][:60], 'was answered:', got)
            return got

    good = socket.create_connection(('127.0.0.1', b.port), timeout=10)
    talk(b'GET / HTTP/1.1\r\n\r\n')
    talk(struct.pack('>i', -1))
    talk(struct.pack('>i', 0x7fffffff))
    talk(struct.pack('>i', 3) + b'abc')
    talk(frame(999, 0))
    talk(frame(0, 2))
    talk(frame(3, 99))
    talk(frame(3, 1, struct.pack('>i', 0x7fffffff)))
    talk(frame(0, 7, b'\xff\xff' + struct.pack('>hii', 1, 1000, 1) + struct.pack('>h', 1000)))
    talk(frame(1, 11, b'\0' * 10))
    talk(frame(11, 5, b'\0\1g' + b'\0' * 10))
    same(talk(frame(18, 99), end=False)[4:6], b'\0\x23')
    # records whose checksum is wrong, of an old version, and none: the protocol's errors
    kcat(b, '-P', '-t', 'checked', stdin='x\n')
    for records, error in ((b'\0' * 16 + b'\2' + b'\0' * 60, 2), (b'\0' * 16 + b'\1' + b'\0' * 60, 43), (b'', 87), (b'abc', 2)):
        body = b'\xff\xff' + struct.pack('>hii', 1, 1000, 1) + b'\0\7checked' + struct.pack('>iii', 1, 0, len(records)) + records
        r = talk(frame(0, 7, body), end=False)
        same(struct.unpack('>h', r[4 + 4 + 9 + 4 + 4:][:2])[0], error)
    # one byte after the other, two requests in one, and one that leaves in the middle
    with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
        for byte in frame(18, 0):
            s.sendall(bytes([byte]))
        check(answer(s))
        s.sendall(frame(18, 0, correlation=1) + frame(3, 1, b'\0\0\0\0', correlation=2))
        same([answer(s)[:4], answer(s)[:4]], [struct.pack('>i', 1), struct.pack('>i', 2)])
        s.sendall(struct.pack('>i', 1000) + b'half')
    good.sendall(frame(18, 0))
    check(answer(good))
    good.close()
    same(read_all(b, 'checked'), ['x'])


def string(x):
    return struct.pack('>h', len(x)) + x


def ask(b, request):
    with socket.create_connection(('127.0.0.1', b.port), timeout=30) as s:
        s.sendall(request)
        return answer(s)


def produce(b, topic, records, acks=-1):
    """By hand. Return: error, offset; None if no answer is wanted."""
    request = frame(0, 7, b'\xff\xff' + struct.pack('>hii', acks, 10000, 1) + string(topic) + struct.pack('>iii', 1, 0, len(records)) + records)
    return struct.unpack('>hq', ask(b, request)[4 + 4 + 2 + len(topic) + 4 + 4:][:10])


def ask_fetch(topic, offsets, version=11, correlation=7):
    """Of each partition from its offset on."""
    flexible, n = version >= 12, struct.pack('>i', len(offsets))
    body = struct.pack('>iiiibii', -1, 300, 1, 50 << 20, 0, 0, -1) + (b'\2' + text(topic) + bytes([len(offsets) + 1]) if flexible else struct.pack('>i', 1) + string(topic) + n)
    for partition, offset in offsets.items():
        body += struct.pack('>iiq', partition, -1, offset) + (struct.pack('>i', -1) if flexible else b'') + struct.pack('>qi', 0, 50 << 20) + (b'\0' if flexible else b'')
    return frame(1, version, b'\0' + body + b'\0\1\1\0' if flexible else body + bytes(4) + b'\0\0', correlation)


def fetched(r, topic, version=11):
    """The answer: each partition's batches, as bytes."""
    flexible, at, got = version >= 12, 4, {}

    def take(format):
        nonlocal at
        at += struct.calcsize(format)
        return struct.unpack(format, r[at - struct.calcsize(format):at])

    def length(wide='>i'):
        nonlocal at
        if not flexible:
            return take(wide)[0]
        n, shift = 0, 0
        while True:
            n |= (r[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if r[at - 1] < 128:
                return n - 1

    at += flexible
    same(take('>ihi')[1:], (0, 0))
    same(length(), 1)
    same(r[at + (1 if flexible else 2):][:len(topic)], topic)
    at += len(topic) + (1 if flexible else 2)
    for _ in range(length()):
        partition, error = take('>ih')
        same(error, 0)
        take('>qqq')
        check(length() <= 0)
        take('>i')
        end, batches = length() + at, []
        while at < end:
            n = 12 + struct.unpack('>i', r[at + 8:at + 12])[0]
            check(at + n <= end and r[at + 16] == 2, n, end - at)
            batches.append(r[at:at + n])
            at += n
        at += flexible
        got[partition] = batches
    same(len(r), at + 2 * flexible)
    return got


def behind(batch):
    return struct.unpack('>q', batch[:8])[0] + struct.unpack('>i', batch[23:27])[0] + 1


def fetch(b, topic, offset=0):
    """All batches of partition 0 from @offset on."""
    got = []
    while True:
        batches = fetched(ask(b, ask_fetch(topic, {0: offset})), topic)[0]
        if not batches:
            return got
        got += batches
        offset = behind(got[-1])


def large_batches_to_who_is_slow(b):
    """They are sent from where they lie, whatever becomes of the topic, of others who read it, and of the client."""
    thmq('topic', 'create', b.native, 'large-ones', '--partitions', '3')
    p = confluent_kafka.Producer({**QUICK, 'bootstrap.servers': b.url, 'linger.ms': 10, 'log_level': 0})
    sent = {i: [] for i in range(3)}
    for i in range(36):
        for part in range(3):
            sent[part].append(os.urandom(random.choice((10, 3000, 60000, 250000) if part else (100000,))))
            p.produce('large-ones', sent[part][-1], partition=part)
        if i % 6 == 5:
            p.flush(30)
    same(p.flush(60), 0)
    for version in 11, 12:
        offsets, got, n = {0: 0, 1: 0, 2: 0}, {0: b'', 1: b'', 2: b''}, 0
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            s.connect(('127.0.0.1', b.port))
            s.settimeout(30)
            while True:
                s.sendall(ask_fetch(b'large-ones', offsets, version))
                n += 1
                if n % 4 == 2:
                    time.sleep(0.05)  # what it does not take stays where it is
                r = fetched(answer(s), b'large-ones', version)
                if not any(r.values()):
                    break
                for part, batches in r.items():
                    for x in batches:
                        same(struct.unpack('>q', x[:8])[0], offsets[part])
                        offsets[part] = behind(x)
                        got[part] += x[61:]
        for part in range(3):
            same(offsets[part], 36)
            at = 0
            for x in sent[part]:
                at = got[part].find(x, at)
                check(at >= 0, 'version', version, 'partition', part)
                at += len(x)
    with socket.socket() as s, socket.socket() as gone:
        for one in s, gone:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(('127.0.0.1', b.port))
            one.settimeout(30)
            for i in range(20):
                one.sendall(ask_fetch(b'large-ones', {0: i}, correlation=i))
        same(len(gone.recv(4, socket.MSG_WAITALL)), len(s.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)))
        gone.close()
        for i in range(20):  # the memory would have other uses
            p.produce('others', b'?' * 900000, partition=0)
        same(p.flush(60), 0)
        same(len(fetch(b, b'others')), 20)
        thmq('topic', 'delete', b.native, 'large-ones')
        comes_to(lambda: 'large-ones' in kcat(b, '-L'), False)
        r = answer(s)
        same(r[:4], bytes(4))
        batches = fetched(r, b'large-ones')[0]
        same(sum(map(len, batches)) > 500000, True)
        check(all(x in b''.join(batches) for x in sent[0][:behind(batches[-1])]))


def compressed_batches_as_they_came(b):
    """What librdkafka has compressed is stored and handed out byte for byte, but for where it lies; whoever speaks to the library gets each message."""
    codecs, came = ('gzip', 'snappy', 'lz4', 'zstd'), {}
    lines = ['%d %s' % (i, 'x' * (i % 300)) for i in range(300)]
    for codec, z in enumerate(codecs, 1):
        kcat(b, '-P', '-t', 'came', '-p', '0', '-z', z, '-k', 'k', stdin=''.join(s + '\n' for s in lines))
        batches = came[z] = fetch(b, b'came', (codec - 1) * len(lines))
        check(batches[-1][22] & 7 == codec and sum(map(len, batches)) < sum(map(len, lines)) // 2, z, 'was not compressed')
        thmq('topic', 'create', b.native, z)
        offset = 0
        for x in batches:  # those are librdkafka's bytes, at 0 and of no leader, as every client's
            same(produce(b, z.encode(), bytes(8) + x[8:12] + b'\xff' * 4 + x[16:]), (0, offset))
            offset += struct.unpack('>i', x[57:61])[0]
        # its checksum may be right, and what is packed in it wrong: it is refused, for all who read would stumble over it
        damaged = bytearray(batches[-1])
        damaged[61 + 12:61 + 40] = bytes(28)
        damaged[17:21] = struct.pack('>I', crc32c(damaged[21:]))
        check(produce(b, z.encode(), bytes(damaged))[0] in (2, 87), z)
        fewer = bytearray(batches[-1])  # or is not as much as it says
        fewer[57:61] = struct.pack('>i', struct.unpack('>i', fewer[57:61])[0] - 1)
        fewer[23:27] = struct.pack('>i', struct.unpack('>i', fewer[23:27])[0] - 1)
        fewer[17:21] = struct.pack('>I', crc32c(fewer[21:]))
        same(produce(b, z.encode(), bytes(fewer))[0], 87, z)
    unknown = bytearray(came['gzip'][-1])
    unknown[22] = unknown[22] & ~7 | 5
    unknown[17:21] = struct.pack('>I', crc32c(unknown[21:]))
    same(produce(b, b'gzip', bytes(unknown))[0], 76)
    b.restart(signal.SIGKILL)
    for z in codecs:
        offset, batches = 0, fetch(b, z.encode())
        same([x[8:12] + x[16:] for x in batches], [x[8:12] + x[16:] for x in came[z]], z)
        for x in batches:
            same(struct.unpack('>q', x[:8])[0], offset)
            offset += struct.unpack('>i', x[57:61])[0]
        same(kcat(b, '-C', '-t', z, '-p', '0', '-o', '150', '-e', '-q', '-f', '%o %k %s\n').splitlines(), ['%d k %s' % x for x in enumerate(lines)][150:])
        same(thmq('sub', b.native, z).splitlines(), lines)


def who_wants_no_answer(b):
    """acks=0: what is sent is stored, nothing is said; where it cannot be the connection ends, so that the client looks around."""
    kcat(b, '-P', '-t', 'quiet', '-p', '0', '-X', 'acks=0', stdin=''.join('%d\n' % i for i in range(2000)))
    comes_to(lambda: read_all(b, 'quiet'), ['%d' % i for i in range(2000)])
    batches = fetch(b, b'quiet')
    quiet = lambda records, correlation: frame(0, 7, b'\xff\xff' + struct.pack('>hii', 0, 1000, 1) + string(b'quiet') + struct.pack('>iii', 1, 0, len(records)) + records, correlation)
    with socket.create_connection(('127.0.0.1', b.port), timeout=30) as s:
        s.sendall(quiet(batches[0], 1) + quiet(batches[0], 2) + frame(18, 0, correlation=3))
        same(answer(s)[:4], struct.pack('>i', 3))
        n = struct.unpack('>i', batches[0][57:61])[0]
        comes_to(lambda: read_all(b, 'quiet'), ['%d' % i for i in [*range(2000), *range(n), *range(n)]])
        s.sendall(quiet(batches[0][:-1] + b'?', 4) + frame(18, 0, correlation=5))
        try:
            same(answer(s), None)
        except ConnectionResetError:
            pass
    p = kafka.KafkaProducer(bootstrap_servers=b.url, acks=0)
    for i in range(100):
        p.send('quiet-too', b'%d' % i, partition=0)
    p.close(60)
    comes_to(lambda: read_all(b, 'quiet-too'), ['%d' % i for i in range(100)])


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def who_does_not_read(b):
    """A client that asks and asks, and takes no answer, costs what its answers may wait in, and nobody else anything."""
    kcat(b, '-P', '-t', 'large', stdin=('x' * 900000 + '\n') * 4)

    before = memory(b, 'VmRSS')
    want = struct.pack('>iiiibii', -1, 500, 1, 1 << 20, 0, 0, -1) + struct.pack('>i', 1) + b'\0\5large' + struct.pack('>i', 1)
    want += struct.pack('>iiqqi', 0, -1, 0, -1, 1 << 20) + struct.pack('>i', 0) + b'\0\0'
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        s.connect(('127.0.0.1', b.port))
        s.settimeout(0.3)
        try:
            for i in range(600):
                s.sendall(frame(1, 11, want, correlation=i))
        except socket.timeout:
            pass
        same(len(read_all(b, 'large')), 4)
        check(memory(b, 'VmRSS') - before < 250 << 20, 'memory:', memory(b, 'VmRSS') - before)
        s.settimeout(10)
        for i in range(3):
            r = answer(s)
            same(r[:4], struct.pack('>i', i))
            check(len(r) > 900000)


def a_thousand_connections(b):
    """Those who connect and say nothing, or half of something, take the places of nobody else for long."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    whole, sockets = frame(18, 0), []
    try:
        for i in range(1000):
            sockets.append(socket.create_connection(('127.0.0.1', b.port), timeout=10))
            sockets[-1].sendall(whole[:i % len(whole)])
            if i == 900:
                kcat(b, '-P', '-t', 'crowd', stdin='while there are places\n')
        comes_to(lambda: subprocess.run(['kcat', '-b', b.url, '-L', '-t', 'crowd', '-m', '5'], capture_output=True).returncode, 0, 60)
        same(read_all(b, 'crowd'), ['while there are places'])
    finally:
        for s in sockets:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def who_vanishes_while_joining(b):
    """A client that goes away in any step of joining a group holds up the others for its session's time, and takes nothing with it."""
    steps = 'connects', 'asks to join', 'joins', 'asks to sync', 'is a member'
    kcat(b, '-P', '-t', 'steps', '-p', '0', stdin=''.join('%d\n' % i for i in range(20)))

    def go(group, step):
        with socket.create_connection(('127.0.0.1', b.port), timeout=30) as s:
            if step == 0:
                return
            about = struct.pack('>hi', 0, 1) + string(b'steps') + struct.pack('>i', -1)
            s.sendall(frame(11, 2, string(group) + struct.pack('>ii', 500, 500) + string(b'') + string(b'consumer') + struct.pack('>i', 1) + string(b'range') +
                            struct.pack('>i', len(about)) + about))
            if step == 1:
                return
            r = answer(s)
            same(struct.unpack('>h', r[8:10])[0], 0)
            at = 14
            for _ in range(3):  # protocol, who leads, who this is
                n = struct.unpack('>h', r[at:at + 2])[0]
                me, at = r[at + 2:at + 2 + n], at + 2 + n
            s.sendall(frame(14, 1, string(group) + r[10:14] + string(me) + struct.pack('>i', 0)))
            if step == 4:
                same(struct.unpack('>h', answer(s)[8:10])[0], 0)

    members = []
    for step in range(len(steps)):
        go(b'steps-%d' % step, step)
        c = confluent_kafka.Consumer({**QUICK_READ, 'bootstrap.servers': b.url, 'group.id': 'steps-%d' % step, 'auto.offset.reset': 'earliest', 'session.timeout.ms': 6000,
                                      'partition.assignment.strategy': 'range', 'log_level': 0})
        c.subscribe(['steps'])
        members.append((c, []))
    end = time.time() + 120
    while any(len(seen) < 20 for c, seen in members):
        check(time.time() < end, [(w, len(seen)) for w, (c, seen) in zip(steps, members)])
        for c, seen in members:
            m = c.poll(0.02)
            if m and not m.error():
                seen.append(int(m.value()))
    for c, seen in members:
        same(seen, list(range(20)))
        c.close()


class Member:
    """A group's member by hand: each of its requests is sent, and its answer taken, when it is told so."""

    def __init__(self, b, group, session=600000, rebalance=600000):
        self.socket = socket.create_connection(('127.0.0.1', b.port), timeout=120)
        self.group, self.session, self.rebalance, self.id, self.generation = group, session, rebalance, b'', -1

    def string(self, x):
        return struct.pack('>h', len(x)) + x

    def ask_join(self):
        self.socket.sendall(frame(11, 2, self.string(self.group) + struct.pack('>ii', self.session, self.rebalance) + self.string(self.id) + self.string(b'consumer') +
                                  struct.pack('>i', 1) + self.string(b'range') + struct.pack('>i', 0)))

    def joined(self):
        """Error, who leads, of how many."""
        r = answer(self.socket)
        error, self.generation = struct.unpack('>hi', r[8:14])
        at, texts = 14, []
        for _ in range(3):  # protocol, who leads, who this is
            n = struct.unpack('>h', r[at:at + 2])[0]
            texts.append(r[at + 2:at + 2 + n])
            at += 2 + n
        self.id = texts[2]
        return error, texts[1] == texts[2], struct.unpack('>i', r[at:at + 4])[0]

    def ask_sync(self, **to):
        self.socket.sendall(frame(14, 1, self.string(self.group) + struct.pack('>i', self.generation) + self.string(self.id) + struct.pack('>i', len(to)) +
                                  b''.join(self.string(k.encode()) + struct.pack('>i', len(v)) + v for k, v in to.items())))

    def synced(self):
        """Error, what is to be done."""
        r = answer(self.socket)
        return struct.unpack('>h', r[8:10])[0], r[14:]

    def heartbeat(self):
        self.socket.sendall(frame(12, 1, self.string(self.group) + struct.pack('>i', self.generation) + self.string(self.id)))
        return struct.unpack('>h', answer(self.socket)[8:10])[0]


def two_members(b, group, session, rebalance):
    """The one that leads, with much time, and the other one, with that session, in one generation."""
    end = time.time() + 120
    while time.time() < end:
        name = group + b'-%d' % random.randrange(1 << 60)
        two = [Member(b, name, rebalance=rebalance), Member(b, name, rebalance=rebalance)]
        for m in two:
            m.ask_join()
        first = two[0].joined()
        if first == (0, True, 1):  # the other one was too late for it
            continue
        second = two[1].joined()
        leader, other = two if first[1] else two[::-1]  # whose request was looked at first
        same((first[0], second[0], first[1] != second[1], first[2] + second[2]), (0, 0, True, 2))
        other.session = session
        other.ask_join()  # as it was, but for this
        same(other.joined()[:2], (0, False))
        return leader, other
    check(False, 'never together')


def a_leader_that_is_slow(b):
    """Who waits to hear what to do is not missed, however long that takes; a leader that lives and never says it is done without."""
    leader, other = two_members(b, b'patient', 300, 600000)
    other.ask_sync()
    time.sleep(0.9)  # three of its sessions
    leader.ask_sync(**{other.id.decode(): b'do this'})
    same([leader.synced(), other.synced()], [(0, b''), (0, b'do this')])
    same([leader.heartbeat(), other.heartbeat()], [0, 0])
    for attempt in range(20):
        leader, other = two_members(b, b'stuck', 600000, 1000)
        same(leader.heartbeat(), 0)
        other.ask_sync()
        error, _ = other.synced()
        if error == 25:  # it was late itself
            continue
        same([error, leader.heartbeat()], [27, 25])
        other.ask_join()
        same(other.joined(), (0, True, 1))
        return
    check(False, 'always late')


def memory(b, what='VmHWM'):
    with open('/proc/%d/status' % b.process.pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what)) * 1024


def who_asks_for_too_much(b):
    """Arrays of millions, thousands of partitions in a fetch, members by the thousand: each gets an answer or an end at once, and costs others nothing."""
    def ask(request):
        with socket.create_connection(('127.0.0.1', b.port), timeout=60) as s:
            try:
                s.sendall(request)
                return answer(s)
            except (ConnectionResetError, BrokenPipeError):
                return None

    before = memory(b)
    kcat(b, '-P', '-t', 'much', '-p', '0', stdin='x\n')
    n = 2000000
    same(ask(frame(0, 7, b'\xff\xff' + struct.pack('>hii', 1, 1000, 1) + string(b'much') + struct.pack('>i', n) + struct.pack('>ii', 0, -1) * n)), None)
    names = b''.join(string(b'n%06d' % i) for i in range(300000))
    same([ask(frame(kind, version, struct.pack('>i', 300000) + names + b'\0')) for kind, version in ((3, 4), (15, 3), (42, 0), (20, 1))], [None] * 4)
    same(ask(frame(16, 4, b'\0' + bytes([101]) + text(b'Empty') * 100 + b'\0')), None)
    names = b''.join(string(b'n%06d' % i) for i in range(20000))
    same(len(ask(frame(15, 0, struct.pack('>i', 20000) + names))) > 20000 * 10, True)
    # one fetch of very many partitions: others read meanwhile, and it is answered when its time is over
    about = lambda index, offset, most: struct.pack('>iiqqi', index, -1, offset, -1, most)
    fetch = lambda wait, least, parts: frame(1, 11, struct.pack('>iiiibii', -1, wait, least, 1, 0, 0, -1) + struct.pack('>i', 1) + string(b'much') +
                                             struct.pack('>i', len(parts)) + b''.join(parts) + struct.pack('>i', 0) + b'\0\0')
    with socket.create_connection(('127.0.0.1', b.port), timeout=60) as s:
        s.sendall(fetch(1000, 2**31 - 1, [about(0, 1, 1)] * 60000))
        same(read_all(b, 'much'), ['x'])
        check(len(answer(s)) > 60000 * 30)
    same(ask(fetch(2**31 - 1, 2**31 - 1, [about(0, 1, 1)] * 70000)), None)
    # of a partition: offsets that are none, sizes that are none; and tiny limits, by which each gets at least a message
    r = ask(fetch(10, 1, [about(0, 2**62, 1), about(0, -1, 1), about(0, -2**63, 1), about(-1, 0, 1), about(7, 0, 1), about(0, 0, -2**31)]))
    errors = []
    at = 4 + 4 + 2 + 4 + 4 + 6 + 4
    for _ in range(6):
        errors.append(struct.unpack('>h', r[at + 4:at + 6])[0])
        at += 4 + 2 + 8 + 8 + 8 + 4 + 4
        at += 4 + max(0, struct.unpack('>i', r[at:at + 4])[0])
    same(errors, [1, 1, 1, 3, 3, 0])
    for name in b'', b'.', b'..', b'a/b', b'a b', b'x' * 300, b'\0', b'\xff\xfe', '\u00e4'.encode(), b'a\nb', b'%s%n', b'kafka.group-offsets':
        for kind, version, body in ((3, 1, struct.pack('>i', 1) + string(name)), (19, 0, struct.pack('>i', 1) + string(name) + struct.pack('>ihiii', 1, 1, 0, 0, 1000)),
                                    (20, 0, struct.pack('>i', 1) + string(name) + struct.pack('>i', 1000)), (2, 1, struct.pack('>ii', -1, 1) + string(name) + struct.pack('>iiq', 1, 0, -1)),
                                    (0, 7, b'\xff\xff' + struct.pack('>hii', 1, 1000, 1) + string(name) + struct.pack('>iii', 1, 0, -1))):
            check(ask(frame(kind, version, body)), name, kind)
    # members that never come again, more than a group takes
    with socket.create_connection(('127.0.0.1', b.port), timeout=60) as s:
        errors, n = [], 10050
        for i in range(0, n, 50):
            s.sendall(frame(11, 4, string(b'many') + struct.pack('>ii', 1800000, 1800000) + string(b'') + string(b'consumer') + struct.pack('>i', 1) + string(b'range') +
                            struct.pack('>i', 0)) * 50)
            errors += [struct.unpack('>h', answer(s)[8:10])[0] for k in range(50)]
    same((errors.count(79), errors.count(81)), (10000, 50))
    same(read_all(b, 'much'), ['x'])
    check(memory(b) - before < 250 << 20, 'memory:', memory(b) - before)


def who_packs_too_much(b):
    """Batches that are small, and large once they are unpacked, many in a request: those for which there is no time are to be sent again, and others do not wait for all of them."""
    kcat(b, '-P', '-t', 'packed', '-p', '0', stdin='x\n')
    behind = struct.pack('>hiqqqhii', 1, 0, 0, 0, -1, -1, -1, 1) + gzip.compress(bytes(60 << 20), 9)
    bomb = struct.pack('>qiibI', 0, len(behind) + 9, -1, 2, crc32c(behind)) + behind
    count = 120  # unpacking all of them takes many seconds
    parts = (struct.pack('>ii', 0, len(bomb)) + bomb) * count
    with socket.create_connection(('127.0.0.1', b.port), timeout=60) as s:
        s.sendall(frame(0, 7, b'\xff\xff' + struct.pack('>hii', -1, 10000, 1) + string(b'packed') + struct.pack('>i', count) + parts))
        same(read_all(b, 'packed'), ['x'])
        r = answer(s)
    errors = [struct.unpack('>h', r[24 + i * 30:][:2])[0] for i in range(count)]
    same((errors[0], errors[-1], set(errors)), (87, 7, {7, 87}))  # no record in them
    same(read_all(b, 'packed'), ['x'])


def requests_by_chance(b):
    """What looks like requests and is none: whatever comes, the broker lives, and others are served."""
    seed = int(os.environ.get('THMQ_TEST_SEED', time.time_ns() % 1000000007))
    rng = random.Random(seed)

    def piece(flex):
        name = rng.choice([b'checked', b'team', b'packed', b'', b'x' * rng.randrange(300), bytes(rng.randrange(256) for _ in range(rng.randrange(9)))])
        kind = rng.randrange(8)
        if kind < 3:
            return bytes([min(len(name) + 1, 127)]) + name if flex else struct.pack('>h', len(name)) + name
        if kind == 3:
            return bytes([rng.choice([0, 1, 2, 3, 127, 255])]) if flex else struct.pack('>i', rng.choice([-1, 0, 1, 1, 2, 3, 2**31 - 1, -2]))
        if kind == 4:
            return struct.pack('>i', rng.choice([0, 1, 2, 5, -1, -2, 6000, 10, 2**31 - 1]))
        if kind == 5:
            return struct.pack('>q', rng.choice([0, 1, -1, -2, 5, 2**62]))
        if kind == 6:
            return bytes([rng.choice([0, 0, 0, 1, 255, rng.randrange(256)])])
        return struct.pack('>h', rng.choice([0, 1, -1]))

    try:
        for i in range(20000 if FULL else 400):
            frames = b''
            for _ in range(rng.randrange(1, 4)):
                api = rng.choice(list(VERSIONS))
                version = rng.randint(*VERSIONS[api])
                flex = version >= FLEXIBLE.get(api, 99)
                body = (b'\0' if flex else b'') + b''.join(piece(flex) for _ in range(rng.randrange(14)))
                frames += frame(api, version, body + (b'\0' * rng.choice([0, 0, 40])))
            with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
                s.sendall(frames)
                try:
                    if rng.randrange(2):
                        s.shutdown(socket.SHUT_WR)
                        while s.recv(65536):
                            pass
                except ConnectionResetError:
                    pass
            check(b.process.poll() is None, 'the broker is gone')
        kcat(b, '-P', '-t', 'after', stdin='x\n')
        same(read_all(b, 'after'), ['x'])
    except BaseException:
        print('THMQ_TEST_SEED=%d' % seed)
        raise


def newest_versions(b):
    """The newest versions of what matters most, whose bytes no client here speaks yet: by hand."""
    with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
        def ask(api, version, body):
            s.sendall(frame(api, version, b'\0' + body))
            r = answer(s)
            same(r[:5], struct.pack('>i', 7) + b'\0')
            return r[5:]

        records = kafka.record.MemoryRecordsBuilder(2, 0, 10000)
        records.append(1234, b'k', b'v', [])
        records.close()
        records = bytes(records.buffer())
        r = ask(3, 12, b'\2' + b'\0' * 16 + text(b'new') + b'\0' + b'\1\0' + b'\0')
        check(r.startswith(struct.pack('>i', 0) + b'\2' + struct.pack('>i', 1) + text(b'127.0.0.1') + struct.pack('>i', b.port) + b'\0\0'), r)
        check(text(b'new') in r)
        topic = r[r.index(text(b'new')) + 4:][:16]
        check(topic != b'\0' * 16)
        r = ask(3, 12, b'\2' + topic + b'\0\0' + b'\1\0' + b'\0')  # by its number
        check(text(b'new') in r, r)
        length = len(records) + 1
        body = b'\0' + struct.pack('>hi', -1, 1000) + b'\2' + text(b'new') + b'\2' + struct.pack('>i', 0)
        body += bytes([length & 127 | 128, length >> 7]) + records + b'\0\0\0'
        r = ask(0, 9, body)
        same(r, b'\2' + text(b'new') + b'\2' + struct.pack('>ihqqq', 0, 0, 0, -1, 0) + b'\1\0\0' + b'\0' + struct.pack('>i', 0) + b'\0')
        body = struct.pack('>iiiibii', -1, 1000, 1, 1 << 20, 0, 0, -1) + b'\2' + text(b'new') + b'\2'
        body += struct.pack('>iiqiqi', 0, -1, 0, -1, -1, 1 << 20) + b'\0\0' + b'\1' + b'\1' + b'\0'
        r = ask(1, 12, body)
        head = struct.pack('>ihi', 0, 0, 0) + b'\2' + text(b'new') + b'\2' + struct.pack('>ihqqq', 0, 0, 1, 1, 0) + b'\0' + struct.pack('>i', -1)
        check(r.startswith(head), r)
        got = kafka.record.MemoryRecords(r[len(head) + 1:-3]).next_batch()
        same([(x.offset, x.timestamp, x.key, x.value) for x in got], [(0, 1234, b'k', b'v')])
        same(r[-3:], b'\0\0\0')
        r = ask(8, 8, text(b'byhand') + struct.pack('>i', -1) + b'\1' + b'\0' + b'\2' + text(b'new') + b'\2' + struct.pack('>iqi', 0, 5, -1) + text(b'm') + b'\0\0\0')
        same(r, struct.pack('>i', 0) + b'\2' + text(b'new') + b'\2' + struct.pack('>ih', 0, 0) + b'\0\0\0')
        alter = lambda name, how, value, only_look=b'\0': struct.unpack('>h', ask(44, 1, b'\2\2' + text(b'new') + b'\2' + text(name) + how + value + b'\0\0' +
                                                                             only_look + b'\0')[5:7])[0]
        same(alter(b'retention.ms', b'\0', text(b'5000')), 0)
        same(alter(b'retention.bytes', b'\0', text(b'6000000')), 0)
        same(alter(b'retention.bytes', b'\0', text(b'7000000'), b'\1'), 0)
        now = lambda: [json.loads(thmq('topic', 'describe', b.native, 'new', '--json').splitlines()[0])[x] for x in ('retention_ns', 'retention_bytes')]
        same(now(), [5000000000, 6000000])
        same([alter(b'retention.ms', b'\1', b'\0'), alter(b'compression.type', b'\1', b'\0'), now()], [0, 0, [0, 6000000]])
        same([alter(b'cleanup.policy', b'\2', text(b'compact')), alter(b'retention.ms', b'\0', b'\0'), alter(b'cleanup.policy', b'\1', b'\0')], [40, 40, 40])
        r = ask(9, 8, b'\2' + text(b'byhand') + b'\0' + b'\0' + b'\0' + b'\0')
        same(r, struct.pack('>i', 0) + b'\2' + text(b'byhand') + b'\2' + text(b'new') + b'\2' + struct.pack('>iqi', 0, 5, -1) + text(b'm') +
             struct.pack('>h', 0) + b'\0\0' + struct.pack('>h', 0) + b'\0\0')
        for offset in 3, -2:  # "at the beginning", as kafkajs resets a group: it has none any more, nor after a restart
            ask(8, 8, text(b'reset') + struct.pack('>i', -1) + b'\1' + b'\0' + b'\2' + text(b'new') + b'\2' + struct.pack('>iqi', 0, offset, -1) + text(b'') + b'\0\0\0')
            r = ask(9, 8, b'\2' + text(b'reset') + b'\0' + b'\0' + b'\0' + b'\0')
            same(text(b'new') in r, offset >= 0, r)

        def forget(group):
            s.sendall(frame(47, 0, struct.pack('>h', len(group)) + group + struct.pack('>i', 1) + b'\0\3new' + struct.pack('>iii', 2, 0, 7)))
            return answer(s)[4:]

        same(forget(b'none'), struct.pack('>hii', 69, 0, 0))
        same(forget(b'byhand'), struct.pack('>hii', 0, 0, 1) + b'\0\3new' + struct.pack('>iihih', 2, 0, 0, 7, 0))
        r = ask(9, 8, b'\2' + text(b'byhand') + b'\0' + b'\0' + b'\0' + b'\0')
        same(r, struct.pack('>i', 0) + b'\2' + text(b'byhand') + b'\1' + struct.pack('>h', 0) + b'\0\0')


def a_full_disk(b):
    """A broker whose device is full says so once, whatever else is refused or still finds room, and that it is over once it is, also where nobody sends any more."""
    dir = os.path.abspath(b.dir + '-full')
    os.mkdir(dir)
    # it is there in the broker's name space only
    program = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=48m none "$0" && exec "$@"', dir, KAFKA]
    if subprocess.run(['unshare', '-m', 'mount', '-t', 'tmpfs', 'none', dir], capture_output=True).returncode:
        print('no file system can be mounted: a full one is not tried')
        return
    full = Broker(dir, program=program)

    def says(what):
        return open(dir + '.log').read().count(what)

    def send(bytes):
        heard = []
        p.produce('t', bytes, callback=lambda e, m: heard.append(e))
        check(p.flush(60) == 0)
        return heard[0]

    p = confluent_kafka.Producer({'bootstrap.servers': full.url, **QUICK, 'linger.ms': 0, 'retries': 0, 'log_level': 0})
    sent = 0
    try:
        while not send(os.urandom(900000)):
            sent += 1
            check(sent < 48, 'it is not full')
        refused = 1 + sum(1 for i in range(40) if send(os.urandom(900000 >> i % 20)))  # some are stored
        check(refused > 1)
        same((says('messages are refused: no space left on the device ('), says('refused'), says('again')), (1, 1, 0), open(dir + '.log').read())
        time.sleep(0.5)
        same(says('again'), 0)
        subprocess.run(['nsenter', '-t', str(full.process.pid), '-m', 'mount', '-o', 'remount,size=160m', dir], check=True)
        comes_to(lambda: says('messages are stored again'), 1)
        same(send(os.urandom(900000)), None)
        same((says('refused'), says('again')), (1, 1))
    finally:
        full.stop()


def acks_beside_who_does_not_read(b):
    """Many connections ask for much at once, more than a round of the broker's has time for, and take little of it: each has his turn, and so has one who sends."""
    p = confluent_kafka.Producer({'bootstrap.servers': b.url, **QUICK, 'linger.ms': 0, 'message.max.bytes': 1000000})
    for i in range(48):
        p.produce('plenty', os.urandom(512 << 10), partition=0)
        check(i % 8 < 7 or p.flush(60) == 0)
    kcat(b, '-P', '-t', 'few', '-p', '0', stdin='x\n')
    records = fetch(b, b'few')[0]
    send = frame(0, 7, b'\xff\xff' + struct.pack('>hii', 1, 10000, 1) + string(b'few') + struct.pack('>iii', 1, 0, len(records)) + records)

    sender, greedy = socket.create_connection(('127.0.0.1', b.port), timeout=60), []
    for i in range(60):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(60)
        s.connect(('127.0.0.1', b.port))
        greedy.append(s)
    sender.sendall(frame(18, 0))
    answer(sender)  # all are let in
    b.process.send_signal(signal.SIGSTOP)  # so that they ask at once
    sender.sendall(send)
    for s in greedy:
        s.sendall(ask_fetch(b'plenty', {0: 0}))
    b.process.send_signal(signal.SIGCONT)
    same(answer(sender)[4 + 4 + 2 + len('few') + 4 + 4:][:2], bytes(2))
    print('answered before who sends:', len(select.select(greedy, [], [], 0)[0]), 'of 60')  # and what this program was late to look
    for s in greedy:
        check(len(s.recv(4, socket.MSG_WAITALL)) == 4)  # each has his in the end
        s.close()
    sender.close()


def who_waits_at_many_ends(b):
    """A fetch of very many partitions waits as long as it said, and hears of what comes to any of them, whoever sent it."""
    ends = dict.fromkeys(range(1200), 0)

    def ask_many(wait_ms, isolation):
        return frame(1, 11, struct.pack('>iiiibiii', -1, wait_ms, 1, 50 << 20, isolation, 0, -1, 1) + string(b'wide') + struct.pack('>i', len(ends)) +
                     b''.join(struct.pack('>iiqqi', i, -1, end, 0, 1 << 20) for i, end in ends.items()) + bytes(4) + b'\0\0')

    def known(isolation):
        while True:  # some may be told to come again, where the machine is slow: they are looked up in a bounded time
            with socket.create_connection(('127.0.0.1', b.port), timeout=60) as s:
                s.sendall(ask_many(0, isolation))
                try:
                    return fetched(answer(s), b'wide')
                except AssertionError:
                    time.sleep(0.1)

    by_kafka = lambda i: kcat(b, '-P', '-t', 'wide', '-p', str(i), stdin='x\n')
    by_library = lambda i: thmq('pub', b.native, 'wide', '--partition', str(i), '--quiet', stdin='x\n')
    thmq('topic', 'create', b.native, 'wide', '--partitions', str(len(ends)))
    s = socket.create_connection(('127.0.0.1', b.port), timeout=60)
    for isolation in 0, 1:
        known(isolation)
        for send, i in (by_kafka, 0), (by_library, 700), (by_kafka, 1199), (by_library, 1199):
            s.sendall(ask_many(600000, isolation))
            same(select.select([s], [], [], 0.1)[0], [])
            send(i)
            got = {i: batches for i, batches in fetched(answer(s), b'wide').items() if batches}
            same(list(got), [i])
            ends[i] = behind(got[i][-1])
    s.sendall(ask_many(600000, 1))
    same(select.select([s], [], [], 0.1)[0], [])
    thmq('topic', 'delete', b.native, 'wide')
    check(answer(s))  # what it says is for the next one to find out
    s.close()
