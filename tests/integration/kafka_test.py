#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kafka_test.py - Kafka's clients as they are, against examples/kafka. Usage: kafka_test.py KAFKA THMQ [CASE or group of them...]

Needs kcat, python3-kafka and python3-confluent-kafka of the distribution; exit 77 where they are not. kafkajs is tried where node finds it. With THMQ_TEST_FULL=1 more kills and
more messages."""

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
    def __init__(self, dir, *args):
        self.dir, self.args = dir, args
        self.port = self.port_tls = None
        self.start()

    def start(self, port=0, host='127.0.0.1'):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.native = 'tcp://127.0.0.1:%d' % s.getsockname()[1]
        self.log = open(self.dir + '.log', 'a')
        self.process = subprocess.Popen([KAFKA, '--data', self.dir, '--listen', '%s:%d' % (host, port), '--thmq', self.native,
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


def kcat(broker, *args, stdin=None, url=None, fails=False, timeout=30):
    quick = [x for k, v in (QUICK_READ if '-C' in args else QUICK).items() for x in ('-X', '%s=%s' % (k, v))]
    p = subprocess.run(['kcat', '-b', url or broker.url, *quick, *args], input=stdin, capture_output=True, text=True, timeout=timeout)
    check(fails == (p.returncode != 0), 'kcat', args, p.returncode, p.stderr)
    return p.stderr if fails else p.stdout


def thmq(*args, stdin=None):
    p = subprocess.run([THMQ, *args], input=stdin, capture_output=True, text=True, timeout=30)
    same(p.returncode, 0, str(args) + p.stderr)
    return p.stdout


def read_all(broker, topic, *args):
    return kcat(broker, '-C', '-t', topic, '-o', 'beginning', '-e', '-q', *args).splitlines()


# ---------------------------------------------------------------------- cases


def every_compression(b):
    """What is sent compressed is stored as it was meant, keys, headers, nulls and times with it."""
    for z in 'none', 'gzip', 'snappy', 'lz4', 'zstd':
        kcat(b, '-P', '-t', 'packed', '-p', '0', '-z', z, '-k', 'key-' + z, '-H', 'how=' + z, stdin=''.join(f'{z} {i}\n' for i in range(50)))
    lines = read_all(b, 'packed', '-f', '%o %k %h %s\n')
    same(lines, [f'{n * 50 + i} key-{z} how={z} {z} {i}' for n, z in enumerate(('none', 'gzip', 'snappy', 'lz4', 'zstd')) for i in range(50)])
    p = kafka.KafkaProducer(bootstrap_servers=b.url, acks=1)
    sent = [(None, b'v', []), (b'k', None, []), (b'', b'', [('e', b'')]), (b'k', b'x' * 50000, [('a', b'1'), ('a', b'2')])]
    for i, (k, v, h) in enumerate(sent):
        r = p.send('odd', key=k, value=v, headers=h, timestamp_ms=1600000000000 + i).get(10)
        same((r.partition, r.offset), (0, i))
    p.close()
    c = kafka.KafkaConsumer('odd', bootstrap_servers=b.url, auto_offset_reset='earliest', consumer_timeout_ms=10000)
    got = [next(c) for _ in sent]
    same([(m.key, m.value, m.headers, m.timestamp) for m in got], [(k, v, h, 1600000000000 + i) for i, (k, v, h) in enumerate(sent)])
    tp = kafka.TopicPartition('odd', 0)
    same(c.offsets_for_times({tp: 1600000000002})[tp].offset, 2)
    same(c.offsets_for_times({tp: 1700000000000})[tp], None)
    same((c.beginning_offsets([tp])[tp], c.end_offsets([tp])[tp]), (0, 4))
    c.close()


def both_ways_with_the_library(b):
    """thmq sub reads what kcat has written, kcat what thmq pub has."""
    kcat(b, '-P', '-t', 'ours', '-p', '0', '-k', 'k', '-H', 'thmq.tag=red', '-H', 'h=1', stdin='from kcat\n')
    thmq('pub', b.native, 'ours', '--key', 'k2', '--tag', 'blue', '--header', 'n:int=5', '--quiet', stdin='from thmq\n')
    m = [json.loads(line) for line in thmq('sub', b.native, 'ours', '--json').splitlines()]
    same([(x['data'], x['key'], x['tag'], x['offset']) for x in m], [('from kcat', 'k', 'red', 0), ('from thmq', 'k2', 'blue', 1)])
    same(read_all(b, 'ours', '-f', '%o %k %h %s\n'), ['0 k thmq.tag=red,h=1 from kcat', '1 k2 thmq.tag=blue,n=5 from thmq'])
    thmq('topic', 'delete', b.native, 'ours')
    kcat(b, '-P', '-t', 'ours', stdin='anew\n')
    same(read_all(b, 'ours', '-f', '%o %s\n'), ['0 anew'])


def groups_share_and_go_on(b):
    """Two members share four partitions; one leaves; what was committed outlives a restart."""
    a = kafka.admin.KafkaAdminClient(bootstrap_servers=b.url)
    a.create_topics([kafka.admin.NewTopic('work', 4, 1)])
    p = kafka.KafkaProducer(bootstrap_servers=b.url)
    for i in range(40):
        p.send('work', b'%d' % i, partition=i % 4)
    p.flush(10)

    def member():
        return kafka.KafkaConsumer('work', bootstrap_servers=b.url, group_id='team', auto_offset_reset='earliest', session_timeout_ms=6000,
                                   heartbeat_interval_ms=100, enable_auto_commit=False)

    def drive(members, until, seconds=20):
        end = time.time() + seconds
        while not until():
            check(time.time() < end, 'in time:', [m.assignment() for m in members])
            for m in members:
                for batch in m.poll(20).values():
                    seen.extend(int(x.value) for x in batch)

    seen = []
    one, two = member(), member()
    threads = [threading.Thread(target=m.poll, args=(3000,)) for m in (one, two)]  # a join waits for the others
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    one.seek_to_beginning()
    two.seek_to_beginning()
    drive([one, two], lambda: set(seen) == set(range(40)))
    same((len(one.assignment()), len(two.assignment())), (2, 2))
    one.commit()
    two.commit()
    d = a.describe_consumer_groups(['team'])[0]
    same((d.state, d.protocol_type, len(d.members)), ('Stable', 'consumer', 2))
    same(a.list_consumer_groups(), [('team', 'consumer')])
    two.close()
    drive([one], lambda: len(one.assignment()) == 4)
    one.close()
    b.restart()
    p.close()
    a.close()
    a = kafka.admin.KafkaAdminClient(bootstrap_servers=b.url)
    same({t.partition: o.offset for t, o in a.list_consumer_group_offsets('team').items()}, {0: 10, 1: 10, 2: 10, 3: 10})
    p = kafka.KafkaProducer(bootstrap_servers=b.url)
    for i in range(40, 44):
        p.send('work', b'%d' % i, partition=i % 4)
    p.flush(10)
    p.close()
    seen.clear()
    one = member()
    drive([one], lambda: len(seen) >= 4)
    same(sorted(seen), [40, 41, 42, 43])
    one.close()
    same([str(e[1].__name__) for e in a.delete_consumer_groups(['team'])], ['NoError'])
    same(a.list_consumer_group_offsets('team'), {})
    a.close()


def idempotent_producers_through_kills(b):
    """A producer that sends again what it got no answer for: all is stored once, in order."""
    kills = 10 if FULL else 1
    count = 200 * (500 if FULL else 40)
    failed = []
    p = confluent_kafka.Producer({**QUICK, 'bootstrap.servers': b.url, 'enable.idempotence': True, 'linger.ms': 1, 'batch.num.messages': 100,
                                  'reconnect.backoff.max.ms': 100, 'retry.backoff.ms': 50, 'message.timeout.ms': 60000,
                                  'log_level': 0, 'error_cb': lambda e: failed.append(e) if e.code() == confluent_kafka.KafkaError._FATAL else None})
    for i in range(count):
        while True:
            try:
                p.produce('once', b'%d' % i, partition=0, on_delivery=lambda e, m: failed.append(e) if e else None)
                break
            except BufferError:
                p.poll(0.1)
        if i % (count // (kills + 1)) == count // (kills + 1) - 1 and i + 1 < count:
            b.restart(signal.SIGKILL)
    same(p.flush(60), 0)
    check(not failed, failed[:3])
    same(read_all(b, 'once'), [str(i) for i in range(count)])


def topics_and_settings(b):
    a = confluent_kafka.admin.AdminClient({'bootstrap.servers': b.url})
    new = confluent_kafka.admin.NewTopic

    def result(futures):
        try:
            return next(iter(futures.values())).result(10) and ''
        except confluent_kafka.KafkaException as e:
            return e.args[0].name()

    same(result(a.create_topics([new('made', 3, 1, config={'retention.ms': '1000000'})])), None)
    same(result(a.create_topics([new('made', 3, 1)])), 'TOPIC_ALREADY_EXISTS')
    same(result(a.create_topics([new('bad name', 3, 1)])), 'TOPIC_EXCEPTION')
    same(result(a.create_topics([new('x', 3, 2)])), 'INVALID_REPLICATION_FACTOR')
    same(result(a.create_topics([new('x', 3, 1, config={'no.such': '1'})])), 'INVALID_CONFIG')
    r = confluent_kafka.admin.ConfigResource(confluent_kafka.admin.RESOURCE_TOPIC, 'made')
    same(a.describe_configs([r])[r].result(10)['retention.ms'].value, '1000000')
    same(result(a.create_topics([new('table', 1, 1, config={'cleanup.policy': 'compact', 'delete.retention.ms': '5000'})])), None)
    r = confluent_kafka.admin.ConfigResource(confluent_kafka.admin.RESOURCE_TOPIC, 'table')
    configs = a.describe_configs([r])[r].result(10)
    same(configs['cleanup.policy'].value, 'compact')
    same(configs['delete.retention.ms'].value, '5000')
    same((configs['segment.bytes'].is_default, [x.name for x in configs['segment.bytes'].synonyms.values()]), (True, ['segment.bytes']))
    def alter(name, **to):
        return result(a.alter_configs([confluent_kafka.admin.ConfigResource(confluent_kafka.admin.RESOURCE_TOPIC, name,
                                                                            set_config={k.replace('_', '.'): v for k, v in to.items()})]))

    def is_set(name):
        r = confluent_kafka.admin.ConfigResource(confluent_kafka.admin.RESOURCE_TOPIC, name)
        return {k: c.value for k, c in a.describe_configs([r])[r].result(10).items() if k.startswith('retention') and not c.is_default}

    same((alter('made', retention_bytes='5000000'), is_set('made')), (None, {'retention.bytes': '5000000'}))  # what is not named is not set
    same((alter('made', retention_ms='60000', segment_ms='5'), is_set('made')), (None, {'retention.ms': '60000'}))
    same([alter('made', cleanup_policy='compact'), alter('made', no_such='1'), alter('made', retention_ms='soon')], ['INVALID_CONFIG'] * 3)
    same([alter('no-such-topic', retention_ms='1'), alter('kafka.group-offsets', retention_ms='1')], ['UNKNOWN_TOPIC_OR_PART', 'TOPIC_EXCEPTION'])
    thmq('topic', 'alter', b.native, 'made', '--retention-time', '30s')
    same(is_set('made'), {'retention.ms': '30000'})
    same(len(a.list_topics('made', 10).topics['made'].partitions), 3)
    same(result(a.delete_topics(['made'])), None)
    same(result(a.delete_topics(['made'])), 'UNKNOWN_TOPIC_OR_PART')
    check('made' not in a.list_topics(timeout=10).topics)


def more_partitions(b):
    """Added by a client of either kind: producers and consumers that are at work go on with all of them."""
    a = confluent_kafka.admin.AdminClient({'bootstrap.servers': b.url, 'log_level': 0})

    def add(count, topic='growing', **how):
        try:
            return next(iter(a.create_partitions([confluent_kafka.admin.NewPartitions(topic, count)], **how).values())).result(30)
        except confluent_kafka.KafkaException as e:
            return e.args[0].name()

    def send(partitions, what):
        left = set(partitions)
        while left:  # a partition that the client has not heard of yet is refused
            for i in sorted(left):
                try:
                    p.produce('growing', b'%s %d' % (what, i), partition=i, on_delivery=lambda e, m: left.discard(m.partition()) if not e else refused.append(e))
                except confluent_kafka.KafkaException as e:
                    refused.append(e.args[0])
            p.flush(30)
            check(time.time() < end, left, refused)
        check(all(e.code() == confluent_kafka.KafkaError._UNKNOWN_PARTITION for e in refused), refused)

    end, refused = time.time() + 120, []
    next(iter(a.create_topics([confluent_kafka.admin.NewTopic('growing', 2, 1)]).values())).result(30)
    thmq('topic', 'create', b.native, 'ids-between')
    quick = {'bootstrap.servers': b.url, 'topic.metadata.refresh.interval.ms': 200, 'log_level': 0}
    p = confluent_kafka.Producer({**QUICK, 'linger.ms': 0, **quick})
    c = confluent_kafka.Consumer({**QUICK_READ, 'group.id': 'growing', 'auto.offset.reset': 'earliest', **quick})
    c.subscribe(['growing'])
    seen = set()

    def take(count):
        while len(seen) < count:
            check(time.time() < end, 'in time:', sorted(seen))
            m = c.poll(0.2)
            if m and not m.error():
                check(m.value() not in seen, m.value(), 'twice')
                seen.add(m.value())

    send(range(2), b'first')
    take(2)
    same([add(5, validate_only=True), add(5), add(5), add(4)], [None, None, 'INVALID_PARTITIONS', 'INVALID_PARTITIONS'])
    same([add(2, 'no-such-topic'), add(2, 'kafka.group-offsets')], ['UNKNOWN_TOPIC_OR_PART', 'TOPIC_EXCEPTION'])
    send(range(5), b'second')
    take(7)
    thmq('topic', 'alter', b.native, 'growing', '--partitions', '9')
    send(range(9), b'third')
    take(16)
    same(len(a.list_topics('growing', 30).topics['growing'].partitions), 9)
    c.close()
    b.restart(signal.SIGKILL)
    same(len(a.list_topics('growing', 30).topics['growing'].partitions), 9)
    same(sorted(read_all(b, 'growing')), sorted(s.decode() for s in seen))


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


def transactions_all_or_nothing(b):
    """What is committed is seen, in all partitions; what is aborted never, but by who wants to; what is open holds up those behind it."""
    uncommitted = ('-X', 'isolation.level=read_uncommitted')
    p = transactional(b, 'writer', **{'message.max.bytes': 4000000})
    kcat(b, '-P', '-t', 'all', stdin='before\n')
    for commit in False, True, True:
        p.begin_transaction()
        for i in range(50):
            p.produce('all', b'%d %d' % (commit, i), key=b'k')
            p.produce('other', b'%d %d' % (commit, i))
        p.flush(10)
        kcat(b, '-P', '-t', 'all', stdin='behind\n')
        p.commit_transaction(20) if commit else p.abort_transaction(20)
    wanted = ['1 %d' % i for i in range(50)]
    comes_to(lambda: read_all(b, 'all'), ['before', 'behind'] + wanted + ['behind'] + wanted + ['behind'])
    comes_to(lambda: read_all(b, 'other'), wanted * 2)
    same(len(read_all(b, 'all', *uncommitted)), 154)
    same(thmq('sub', b.native, 'other').splitlines(), wanted * 2)
    p.begin_transaction()  # one that is open: its messages, and those behind them, are not seen yet
    p.produce('all', b'open')
    p.flush(10)
    kcat(b, '-P', '-t', 'all', stdin='late\n')
    same(len(read_all(b, 'all')), 104)
    same(read_all(b, 'all', *uncommitted)[-2:], ['open', 'late'])
    c = confluent_kafka.Consumer({**QUICK_READ, 'bootstrap.servers': b.url, 'group.id': 'x', 'log_level': 0})
    same([c.get_watermark_offsets(confluent_kafka.TopicPartition('all', 0), 10)[1]], [154])
    c.close()
    p.abort_transaction(20)
    comes_to(lambda: read_all(b, 'all')[-1], 'late')
    p.begin_transaction()  # nothing in it
    p.commit_transaction(20)
    p.begin_transaction()
    p.produce('all', b'large' * 300000)  # more than a batch of the library, in one message
    try:
        p.commit_transaction(20)
        check(False, 'what cannot be stored is committed')
    except confluent_kafka.KafkaException as e:
        check(e.args[0].txn_requires_abort(), e)
    p.abort_transaction(20)
    for attempt in range(3):  # the client's number of what was refused is missing: it begins with a new epoch
        p.begin_transaction()
        try:
            for i in range(30):
                p.produce('all', b'%d' % i + b'x' * 100000)  # which is refused, too, once the client has heard of it
            p.commit_transaction(20)
            break
        except confluent_kafka.KafkaException as e:
            check((e.args[0].txn_requires_abort() or e.args[0].code() == confluent_kafka.KafkaError._STATE) and attempt < 2, e)
            p.abort_transaction(20)
    comes_to(lambda: len(read_all(b, 'all')), 105 + 30)


def one_name_one_transaction(b):
    """Who begins anew has fenced the one before, and what that had open is aborted. A transaction that takes too long is."""
    old = transactional(b, 'same')
    old.begin_transaction()
    old.produce('fence', b'old')
    old.flush(10)
    new = transactional(b, 'same')
    new.begin_transaction()
    new.produce('fence', b'new')
    try:
        old.commit_transaction(20)
        check(False, 'who was fenced commits')
    except confluent_kafka.KafkaException as e:
        check(e.args[0].fatal() or e.args[0].code() == confluent_kafka.KafkaError._FENCED, e)
    new.commit_transaction(20)
    comes_to(lambda: read_all(b, 'fence'), ['new'])
    slow = transactional(b, 'slow', **{'transaction.timeout.ms': 1000, 'message.timeout.ms': 1000})
    slow.begin_transaction()
    slow.produce('fence', b'slow')
    slow.flush(10)
    kcat(b, '-P', '-t', 'fence', stdin='behind\n')
    comes_to(lambda: read_all(b, 'fence'), ['new', 'behind'])
    try:
        slow.commit_transaction(20)
        check(False, 'it was too late')
    except confluent_kafka.KafkaException as e:
        check(e.args[0].fatal() or e.args[0].txn_requires_abort(), e)
    same(read_all(b, 'fence'), ['new', 'behind'])


def consume_transform_produce(b):
    """What is read, made into something else and written counts exactly once, though the broker is killed, and again, and the program begins anew."""
    count, kills = (2000, 10) if FULL else (300, 2)
    kcat(b, '-P', '-t', 'from', stdin=''.join('%d\n' % i for i in range(count)))
    killed = 0
    end = time.time() + (300 if FULL else 100)

    def members():
        c = confluent_kafka.Consumer({**QUICK_READ, 'bootstrap.servers': b.url, 'group.id': 'transform', 'auto.offset.reset': 'earliest', 'enable.auto.commit': False,
                                      'reconnect.backoff.max.ms': 100, 'session.timeout.ms': 6000, 'heartbeat.interval.ms': 500, 'log_level': 0})
        c.subscribe(['from'])
        return c, transactional(b, 'transform')

    c, p = members()
    aborted, kill = 0, None
    while True:
        check(time.time() < end, 'in time:', killed, aborted)
        messages = [m for m in c.consume(20, 0.2) if not m.error()]
        where = c.position(c.assignment())
        if not messages:
            committed = [t.offset for t in c.committed([confluent_kafka.TopicPartition('from', 0)], 20)]
            if committed == [count]:
                break
            continue
        try:
            p.begin_transaction()
            for m in messages:
                p.produce('to', b'<%s>' % m.value())
            p.send_offsets_to_transaction(where, c.consumer_group_metadata(), 20)
            if killed < kills and int(messages[-1].value()) >= count * (killed + 1) // (kills + 1):
                killed += 1
                if killed % 2:
                    b.restart(signal.SIGKILL)  # in its middle
                else:
                    kill = threading.Timer(random.random() * 0.01, b.restart, (signal.SIGKILL,))  # under the commit, or behind it
                    kill.start()
            if random.randrange(10) == 0:
                raise confluent_kafka.KafkaException('on purpose')
            patiently(p.commit_transaction)
        except confluent_kafka.KafkaException as e:
            aborted += 1
            fatal = isinstance(e.args[0], confluent_kafka.KafkaError) and e.args[0].fatal()
            check(not fatal, e)
            patiently(p.abort_transaction)
            c.close()
            c, p = members()  # the simplest way back to what is committed
        if kill:
            kill.join()
            kill = None
    c.close()
    comes_to(lambda: read_all(b, 'to'), ['<%d>' % i for i in range(count)])
    check(killed == kills, killed)


def aborted_while_the_broker_dies(b):
    """What was under way then is not there afterwards, and the next transaction is whole."""
    p, rounds = transactional(b, 'dying'), 100 if FULL else 4
    for i in range(rounds):
        p.begin_transaction()
        for k in range(20):
            p.produce('dead', b'%d %d' % (i, k))
        kill = threading.Timer(random.random() * 0.006, b.restart, (signal.SIGKILL,))
        kill.start()
        time.sleep(random.random() * 0.003)
        patiently(p.abort_transaction)
        kill.join()
    p.begin_transaction()
    p.produce('dead', b'alive')
    patiently(p.commit_transaction)
    comes_to(lambda: read_all(b, 'dead'), ['alive'])


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


VERSIONS = {0: (3, 9), 1: (4, 12), 2: (1, 7), 3: (0, 12), 8: (2, 8), 9: (1, 8), 10: (0, 4), 11: (0, 9), 12: (0, 4), 13: (0, 5), 14: (0, 5), 15: (0, 5),
            16: (0, 4), 17: (0, 1), 18: (0, 3), 19: (0, 7), 20: (0, 5), 22: (0, 4), 24: (0, 3), 25: (0, 3), 26: (0, 3), 28: (0, 3), 32: (0, 4), 33: (0, 2), 36: (0, 2), 37: (0, 3), 42: (0, 2), 44: (0, 1), 47: (0, 0)}
FLEXIBLE = {0: 9, 1: 12, 2: 6, 3: 9, 8: 8, 9: 6, 10: 3, 11: 6, 12: 4, 13: 4, 14: 4, 15: 5, 16: 3, 18: 3, 19: 5, 20: 4, 22: 2, 24: 3, 25: 3, 26: 3, 28: 3, 32: 4, 33: 2, 36: 2, 37: 2, 42: 2, 44: 1, 65: 0, 66: 0}


def who_does_not_read(b):
    """A client that asks and asks, and takes no answer, costs what its answers may wait in, and nobody else anything."""
    kcat(b, '-P', '-t', 'large', stdin=('x' * 900000 + '\n') * 4)

    def memory():
        with open('/proc/%d/statm' % b.process.pid) as f:
            return int(f.read().split()[1]) * 4096

    before = memory()
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
        check(memory() - before < 250 << 20, 'memory:', memory() - before)
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
    string = lambda x: struct.pack('>h', len(x)) + x
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


def text(s):  # a compact string
    return bytes([len(s) + 1]) + s


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

        def forget(group):
            s.sendall(frame(47, 0, struct.pack('>h', len(group)) + group + struct.pack('>i', 1) + b'\0\3new' + struct.pack('>iii', 2, 0, 7)))
            return answer(s)[4:]

        same(forget(b'none'), struct.pack('>hii', 69, 0, 0))
        same(forget(b'byhand'), struct.pack('>hii', 0, 0, 1) + b'\0\3new' + struct.pack('>iihih', 2, 0, 0, 7, 0))
        r = ask(9, 8, b'\2' + text(b'byhand') + b'\0' + b'\0' + b'\0' + b'\0')
        same(r, struct.pack('>i', 0) + b'\2' + text(b'byhand') + b'\1' + struct.pack('>h', 0) + b'\0\0')


def what_becomes_of_a_transaction(b):
    """Each step by hand: what is told before and after a kill, to who is fenced, who comes too late, and who lost an answer."""
    def ask(api, version, body):
        flexible = version >= FLEXIBLE[api]
        with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
            s.sendall(frame(api, version, (b'\0' if flexible else b'') + body))
            return answer(s)[5 if flexible else 4:]

    name, topic = text(b'raw'), text(b'byhand')
    kcat(b, '-P', '-t', 'byhand', stdin='x\n')
    init = lambda *who: struct.unpack('>hqh', ask(22, 4, name + struct.pack('>iqh', 60000, *who) + b'\0')[4:16])
    add = lambda *more: ask(24, 3, name + who() + bytes([2 + len(more)]) + b''.join(t + b'\2' + struct.pack('>i', 0) + b'\0' for t in (topic,) + more) + b'\0')[4:]
    one = lambda r: struct.unpack('>h', r[1 + len(topic) + 1 + 4:][:2])[0]
    end = lambda commit: struct.unpack('>h', ask(26, 3, name + who() + (b'\1' if commit else b'\0') + b'\0')[4:6])[0]
    where = lambda offset: b'\2' + topic + b'\2' + struct.pack('>iqi', 0, offset, -1) + text(b'') + b'\0\0'
    offset = lambda n: one(ask(28, 3, name + text(b'team') + who() + struct.pack('>i', -1) + text(b'') + b'\0' + where(n) + b'\0')[4:])

    def committed(stable):  # offset, error
        r = ask(9, 7, text(b'team') + b'\2' + topic + b'\2' + struct.pack('>i', 0) + b'\0' + (b'\1' if stable else b'\0') + b'\0')
        r = r[4 + 1 + len(topic) + 1 + 4:]
        return struct.unpack('>q', r[:8])[0], struct.unpack('>h', r[13:15])[0]

    def state(of=name):  # error, in words, time-out, producer, epoch
        r = ask(65, 0, b'\2' + of + b'\0')[5:]
        n = 2 + len(of)
        return (struct.unpack('>h', r[:2])[0], r[n + 1:n + r[n]].decode(), *struct.unpack('>i', r[n + r[n]:][:4]), *struct.unpack('>qh', r[n + r[n] + 12:][:10]))

    def listed(*states, producers=()):  # states that are none, the answer's entries
        r = ask(66, 0, bytes([1 + len(states)]) + b''.join(map(text, states)) + bytes([1 + len(producers)]) + struct.pack('>%dq' % len(producers), *producers) + b'\0')
        same(r[:6], b'\0' * 6)
        return r[6] - 1, r[7:] if r[6] == 1 else None

    same(state(), (105, '', 0, -1, -1))
    error, producer, epoch = init(-1, -1)
    who = lambda: struct.pack('>qh', producer, epoch)
    same((error, epoch), (0, 0))
    same(state(), (0, 'Empty', 60000, producer, 0))
    entry = lambda how: b'\2' + name + struct.pack('>q', producer) + text(how) + b'\0\0'
    same([listed(b'Empty', b'Dead', producers=(1, producer)), listed(b'Ongoing'), listed(b'Strange')[0]], [(0, entry(b'Empty')), (0, b'\1\0'), 1])
    same([end(True), offset(1), one(add()), offset(5), committed(False), committed(True)], [48, 48, 0, 0, (-1, 0), (-1, 88)])
    same([end(True), committed(True), end(True), end(False)], [0, (5, 0), 0, 48])
    b.restart(signal.SIGKILL)
    same([end(True), end(False), committed(True)], [0, 48, (5, 0)])
    same([state()[1], one(add()), state(), listed(b'Ongoing', producers=(producer,))], ['CompleteCommit', 0, (0, 'Ongoing', 60000, producer, 0), (0, entry(b'Ongoing'))])
    same([end(False), state()[1]], [0, 'CompleteAbort'])
    same([one(add()), offset(5), end(True)], [0, 0, 0])
    same([one(add()), end(True)], [0, 0])  # nothing in it: what says that it was committed is written behind the answer
    b.restart(signal.SIGKILL)
    same([end(True), committed(True)], [0, (5, 0)])
    same([one(add()), offset(7), committed(False), end(False), end(False), end(True), committed(True)], [0, 0, (5, 0), 0, 0, 48, (5, 0)])
    same([one(add()), offset(9)], [0, 0])
    b.restart(signal.SIGKILL)  # it is lost
    same([committed(True), offset(9), one(add()), end(True), end(False), committed(True)], [(5, 0), 25, 59, 59, 0, (5, 0)])
    same([one(add()), offset(11), one(add()), end(True), committed(True)], [0, 0, 0, 0, (11, 0)])
    # of several partitions all or none
    thmq('topic', 'create', b.native, 'byhand-table', '--compact')
    r = add(text(b'no-such'), text(b'byhand-table'))
    at, errors = 1, []
    for t in topic, text(b'no-such'), text(b'byhand-table'):
        errors.append(struct.unpack('>h', r[at + len(t) + 1 + 4:][:2])[0])
        at += len(t) + 1 + 4 + 2 + 1 + 1
    same((errors, end(True)), ([55, 3, 43], 0))
    # who is another, or was fenced
    epoch += 1
    same([end(True), one(add()), offset(1)], [90, 90, 47])
    same(struct.unpack('>h', ask(26, 1, b'\0\3raw' + who() + b'\1')[4:6])[0], 47)
    epoch -= 1
    producer += 1
    same([end(True), one(add()), offset(1)], [49, 49, 49])
    producer -= 1
    same([one(add()), offset(13), init(producer, 0), init(producer, 0), committed(True)], [0, 0, (0, producer, 1), (0, producer, 1), (11, 0)])
    same([init(producer, 1), init(producer, 0)], [(0, producer, 2), (90, -1, -1)])
    b.restart()
    same([init(producer, 1)[0], init(-1, -1)], [90, (0, producer, 3)])
    same(struct.unpack('>h', ask(22, 4, name + struct.pack('>iqh', 3600000, -1, -1) + b'\0')[4:6])[0], 50)


def who_the_client_is(b):
    """TLS and SASL: the right password, by each mechanism, and no other."""
    dir = b.dir + '.keys'
    os.makedirs(dir)
    if subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext',
                       'subjectAltName=IP:127.0.0.1,DNS:localhost', '-keyout', dir + '/key', '-out', dir + '/cert'],
                      capture_output=True).returncode:
        print('no openssl: TLS is not tried')
        return
    with open(dir + '/users', 'w') as f:
        f.write('# those who may come\nann:se:cret\nbob,b=b:x\n')
    b.stop()
    b.args = ('--users', dir + '/users', '--listen-tls', '127.0.0.1:0', '--cert', dir + '/cert', '--key', dir + '/key')
    b.start()
    tls = '127.0.0.1:%d' % b.port_tls
    who = lambda m, name='ann', word='se:cret', over='SASL_SSL': (
        '-X', 'security.protocol=' + over, '-X', 'sasl.mechanisms=' + m, '-X', 'sasl.username=' + name, '-X', 'sasl.password=' + word,
        '-X', 'ssl.ca.location=' + dir + '/cert')
    kcat(b, '-P', '-t', 'secret', *who('SCRAM-SHA-512'), stdin='1\n', url=tls)
    same(kcat(b, '-C', '-t', 'secret', '-e', '-q', *who('SCRAM-SHA-256', 'bob,b=b', 'x'), url=tls), '1\n')
    same(kcat(b, '-C', '-t', 'secret', '-e', '-q', *who('PLAIN', over='SASL_PLAINTEXT')), '1\n')
    for m in ('PLAIN', 'SCRAM-SHA-256') if FULL else ('SCRAM-SHA-256',):
        kcat(b, '-L', '-m', '1', *who(m, word='wrong'), url=tls, fails=True)
    mechanism = lambda m: frame(17, 1, struct.pack('>h', len(m)) + m)
    token = lambda t: frame(36, 1, struct.pack('>i', len(t)) + t)
    for m, t in ((b'PLAIN', b'\0ann\0wrong'), (b'PLAIN', b'\0nobody\0se:cret'), (b'PLAIN', b'\0ann\0'), (b'PLAIN', b''), (b'PLAIN', b'\0' * 60000),
                 (b'SCRAM-SHA-256', b'n,,n=,r=abc'), (b'SCRAM-SHA-512', b'p=tls-unique,,n=ann,r=abc'), (b'SCRAM-SHA-256', b'\xff' * 1000)):
        with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
            s.sendall(mechanism(m))
            same(struct.unpack('>h', answer(s)[4:6])[0], 0)
            s.sendall(token(t))
            r = answer(s)
            check(r is None or struct.unpack('>h', r[4:6])[0] == 58, m, t[:20], r)  # SASL_AUTHENTICATION_FAILED
            s.sendall(frame(3, 1, b'\xff\xff\xff\xff'))  # who he is was not shown
            try:
                same(answer(s), None)
            except (ConnectionResetError, BrokenPipeError):
                pass
    with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
        s.sendall(mechanism(b'GSSAPI'))
        same(struct.unpack('>h', answer(s)[4:6])[0], 33)  # UNSUPPORTED_SASL_MECHANISM
    with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
        s.sendall(frame(3, 1, b'\xff\xff\xff\xff'))
        same(answer(s), None)
    for m in 'PLAIN', 'SCRAM-SHA-256':  # this one speaks without requests around its tokens
        c = kafka.KafkaConsumer(bootstrap_servers=b.url, security_protocol='SASL_PLAINTEXT', sasl_mechanism=m, sasl_plain_username='ann',
                                sasl_plain_password='se:cret')
        check('secret' in c.topics())
        c.close()


def by_ipv6(b):
    """An address of IPv6 is listened at and told to clients, and a socket for both tells each what it came by."""
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(('::1', 0))
    except OSError as e:
        print('no IPv6:', e)
        return
    b.stop()
    b.start(host='[::1]')
    kcat(b, '-P', '-t', 'six', stdin='1\n')
    same(read_all(b, 'six'), ['1'])
    check('[::1]:%d' % b.port in kcat(b, '-L') or '::1:%d' % b.port in kcat(b, '-L'), kcat(b, '-L'))
    b.stop()
    b.start(host='[::]')
    b.url = '127.0.0.1:%d' % b.port
    same(read_all(b, 'six'), ['1'])
    check('127.0.0.1:%d' % b.port in kcat(b, '-L'), kcat(b, '-L'))
    b.stop()
    b.args += ('--advertise', '[::1]:7')
    b.start()
    check(':7' in kcat(b, '-L') and '[[' not in kcat(b, '-L'), kcat(b, '-L'))
    b.stop()
    b.args = b.args[:-2]
    b.start()


def batches_as_they_came(b):
    """What is stored is the batch itself: one run of it, read by the library's own tools as messages, found by key and time; a cut in its middle works."""
    p = confluent_kafka.Producer({**QUICK, 'bootstrap.servers': b.url, 'linger.ms': 200, 'batch.num.messages': 100, 'log_level': 0})
    for i in range(100):
        p.produce('whole', b'v%d' % i, key=b'k%d' % i, partition=0, timestamp=1600000000000 + i * 3600000,
                  headers=[('n', b'%d' % i), ('thmq.tag', b'even' if i % 2 == 0 else b'odd')])
    same(p.flush(20), 0)
    kcat(b, '-P', '-t', 'whole', '-p', '0', '-z', 'lz4', stdin=''.join('packed %d\n' % i for i in range(50)))
    m = [json.loads(line) for line in thmq('sub', b.native, 'whole', '--json').splitlines()]
    same([(x['data'], x['offset']) for x in m], [('v%d' % i, i) for i in range(100)] + [('packed %d' % i, 100 + i) for i in range(50)])
    same([(x['key'], x['tag']) for x in m[:100]], [('k%d' % i, 'odd' if i % 2 else 'even') for i in range(100)])
    same(len(thmq('sub', b.native, 'whole', '--tag', 'odd').splitlines()), 50)
    same(read_all(b, 'whole', '-f', '%o %k %h %s\n')[37], '37 k37 n=37,thmq.tag=odd v37')
    same(kcat(b, '-C', '-t', 'whole', '-p', '0', '-o', '37', '-c', '2', '-q', '-f', '%o %s\n'), '37 v37\n38 v38\n')
    c = kafka.KafkaConsumer(bootstrap_servers=b.url)
    tp = kafka.TopicPartition('whole', 0)
    same(c.offsets_for_times({tp: 1600000000000 + 50 * 3600000 - 1})[tp], kafka.structs.OffsetAndTimestamp(50, 1600000000000 + 50 * 3600000))
    c.close()
    b.stop(signal.SIGKILL)
    runs = [json.loads(line) for line in thmq('dump', '--json', b.dir).splitlines()]
    runs = [x for x in runs if x.get('topic') == 'whole' and 'offset' in x]
    check(runs and all(x['encoding'] == 'kafka' for x in runs) and len(runs) < 50, runs)
    b.start(b.port)
    same(len(read_all(b, 'whole')), 150)


def by_kafkajs(b):
    """Another client, written anew in another language: idempotent producer, gzip, a group, what is asked about groups and offsets."""
    if not shutil.which('node') or subprocess.run(['node', '-e', 'require("kafkajs")'], capture_output=True).returncode:
        print('no kafkajs: it is not tried (npm install kafkajs, NODE_PATH)')
        return
    p = subprocess.run(['node', os.path.join(os.path.dirname(os.path.abspath(__file__)), 'kafka_test.js'), b.url], capture_output=True, text=True, timeout=60)
    same(p.returncode, 0, p.stdout + p.stderr)


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


def three_brokers_and_a_kill(b):
    """The one that leads is killed, twice: what was acknowledged is there once and in order, and a group goes on where it was."""
    three = Three(b.dir + '.three')
    try:
        first = three.leader()
        a = confluent_kafka.admin.AdminClient({'bootstrap.servers': three.url, 'log_level': 0})
        next(iter(a.create_topics([confluent_kafka.admin.NewTopic('kept', 1, 3)]).values())).result(20)
        count, failed = 200 * (50 if FULL else 10), []
        p = confluent_kafka.Producer({**QUICK, 'bootstrap.servers': three.url, 'enable.idempotence': True, 'linger.ms': 5, 'batch.num.messages': 20,
                                      'reconnect.backoff.max.ms': 200, 'retry.backoff.ms': 50, 'message.timeout.ms': 60000,
                                      'topic.metadata.refresh.fast.interval.ms': 50, 'log_level': 0,
                                      'error_cb': lambda e: failed.append(e) if e.code() == confluent_kafka.KafkaError._FATAL else None})
        killed = None
        for i in range(count):
            p.produce('kept', b'%d' % i, partition=0, on_delivery=lambda e, m: failed.append(e) if e else None)
            p.poll(0.001 if i % 20 == 0 else 0)
            if i == count // 3:
                three.processes[first].kill()
                three.processes[first].wait()
                killed = three.leader()
                check(killed != first)
            if i == count * 2 // 3:
                three.start(first)
        same(p.flush(60), 0, three.logs())
        check(not failed, failed[:3])
        same(read_all(three, 'kept', '-X', 'log_level=0'), [str(i) for i in range(count)])
        c = confluent_kafka.Consumer({**QUICK_READ, 'bootstrap.servers': three.url, 'group.id': 'team', 'auto.offset.reset': 'earliest', 'enable.auto.commit': False,
                                      'session.timeout.ms': 6000, 'log_level': 0})
        c.subscribe(['kept'])
        seen, end = [], time.time() + 60

        def take(until):
            while len(seen) < until:
                check(time.time() < end, 'in time:', len(seen), three.logs())
                m = c.poll(0.5)
                if m and not m.error():
                    seen.append(int(m.value()))

        take(100)
        c.commit(asynchronous=False)
        now = three.leader()
        three.processes[now].kill()
        three.processes[now].wait()
        take(count)
        check(set(seen) == set(range(count)), 'all are seen')
        c.close()
    except BaseException:
        print(three.logs())
        raise
    finally:
        three.stop(signal.SIGKILL)


def transactions_through_kills_of_leaders(b):
    """Who leads is killed between what was sent and the commit, and while that is under way: of each transaction all is there or nothing, as was told."""
    three = Three(b.dir + '.three-txn')
    try:
        first = three.leader()
        a = confluent_kafka.admin.AdminClient({'bootstrap.servers': three.url, 'log_level': 0})
        next(iter(a.create_topics([confluent_kafka.admin.NewTopic('moved', 2, 3)]).values())).result(30)
        quick = {'bootstrap.servers': three.url, 'reconnect.backoff.max.ms': 200, 'retry.backoff.ms': 50, 'topic.metadata.refresh.fast.interval.ms': 50, 'log_level': 0}
        p = confluent_kafka.Producer({**QUICK, 'transactional.id': 'mover', 'linger.ms': 1, **quick})
        p.init_transactions(60)
        wanted, doubts, number = [], 0, 0

        def one(kill=None, commit=True):
            nonlocal doubts, number
            number += 1
            end = time.time() + 120
            while True:  # one that a change of leader has aborted is done again
                check(time.time() < end, number, three.logs())
                try:
                    p.begin_transaction()
                    for i in range(20):
                        p.produce('moved', b'%d %d' % (number, i), partition=i % 2)
                    p.flush(60)
                    if kill:
                        kill, before = None, kill
                        before()
                    if not commit:
                        patiently(p.abort_transaction)
                        return
                    patiently(p.commit_transaction)
                    wanted.extend('%d %d' % (number, i) for i in range(20))
                    return
                except confluent_kafka.KafkaException as e:
                    check(e.args[0].txn_requires_abort() or e.args[0].retriable(), e, three.logs())
                    doubts += 1
                    patiently(p.abort_transaction)

        def kill_leader():
            nonlocal first
            first = three.leader()
            three.processes[first].kill()
            three.processes[first].wait()

        def kill_while_it_commits():
            threading.Timer(0.002, kill_leader_at_once, [three.leader()]).start()

        def kill_leader_at_once(who):
            nonlocal first
            first = who
            three.processes[who].kill()
            three.processes[who].wait()
            killed.set()

        one()
        one(commit=False)
        one(kill_leader)
        check(doubts, 'it was not aborted')
        three.start(first)
        one()
        killed = threading.Event()
        one(kill_while_it_commits)
        check(killed.wait(30))
        three.start(first)
        one()
        comes_to(lambda: sorted(read_all(three, 'moved', '-X', 'log_level=0')), sorted(wanted), 60)
    except BaseException:
        print(three.logs())
        raise
    finally:
        three.stop(signal.SIGKILL)


CASES = {
    'clients': [every_compression, batches_as_they_came, both_ways_with_the_library, groups_share_and_go_on, idempotent_producers_through_kills, topics_and_settings,
                more_partitions, by_kafkajs, by_ipv6, who_the_client_is],
    'transactions': [transactions_all_or_nothing, one_name_one_transaction, consume_transform_produce, aborted_while_the_broker_dies, what_becomes_of_a_transaction],
    'bytes': [what_makes_no_sense, who_does_not_read, a_thousand_connections, who_vanishes_while_joining, requests_by_chance, newest_versions],
    'cluster': [three_brokers_and_a_kill, transactions_through_kills_of_leaders]}


def main():
    dir = tempfile.mkdtemp(prefix='kafka-test-', dir='.')
    b = Broker(dir + '/data')
    try:
        for case in [c for group, cases in CASES.items() for c in cases if not sys.argv[3:] or group in sys.argv[3:] or c.__name__ in sys.argv[3:]]:
            begun = time.time()
            case(b)
            print('%s: %.1f s' % (case.__name__, time.time() - begun), flush=True)
        b.stop()
    except BaseException:
        b.process.kill()
        print(open(b.dir + '.log').read()[-3000:])
        raise
    finally:
        shutil.rmtree(dir, ignore_errors=True)


main()
