#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kafka_test.py - Kafka's clients as they are, against examples/kafka. Usage: kafka_test.py KAFKA THMQ [CASE or group of them...]

Needs kcat, python3-kafka and python3-confluent-kafka of the distribution; exit 77 where they are not. kafkajs is tried where node finds it. With THMQ_TEST_FULL=1 more kills and
more messages."""

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from kafka_rig import *
from kafka_bytes import *
from kafka_cluster import *
from kafka_kills import *
from kafka_load import *


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
    check(p.flush(60) in (0, None))

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
    check(p.flush(60) in (0, None))
    p.close()
    seen.clear()
    one = member()
    drive([one], lambda: len(seen) >= 4)
    same(sorted(seen), [40, 41, 42, 43])
    one.close()
    same([str(e[1].__name__) for e in a.delete_consumer_groups(['team'])], ['NoError'])
    same(a.list_consumer_group_offsets('team'), {})
    a.close()


def members_that_keep_what_they_have(b):
    """Cooperative members give up only what another one gets; one that has a name of its own (group.instance.id) comes back to what it had, and nobody else notices."""
    a = confluent_kafka.admin.AdminClient({'bootstrap.servers': b.url, 'log_level': 0})
    for f in a.create_topics([confluent_kafka.admin.NewTopic('stay', 4, 1)]).values():
        f.result(30)

    class Member:
        def __init__(self, group, **how):
            self.has, self.lost, self.seen = set(), [], []
            self.c = confluent_kafka.Consumer({**QUICK_READ, 'bootstrap.servers': b.url, 'group.id': group, 'auto.offset.reset': 'earliest', 'session.timeout.ms': 20000,
                                               'heartbeat.interval.ms': 100, 'enable.auto.commit': False, 'log_level': 0, **how})
            self.c.subscribe(['stay'], on_assign=self.gets, on_revoke=self.loses)

        def gets(self, c, parts):
            self.has |= {p.partition for p in parts}

        def loses(self, c, parts):
            self.has -= {p.partition for p in parts}
            self.lost.append({p.partition for p in parts})

    def drive(members, until):
        end = time.time() + 60
        while not until():
            check(time.time() < end, 'in time:', [(m.has, m.lost, len(m.seen)) for m in members])
            for m in members:
                got = m.c.poll(0.02)
                if got and not got.error():
                    m.seen.append(got.value())
                    m.c.commit(message=got, asynchronous=False)

    p = confluent_kafka.Producer({**QUICK, 'bootstrap.servers': b.url, 'log_level': 0})
    for i in range(40):
        p.produce('stay', b'%d' % i, partition=i % 4)
    same(p.flush(60), 0)
    how = {'partition.assignment.strategy': 'cooperative-sticky'}
    one = Member('cooperate', **how)
    drive([one], lambda: len(one.seen) == 40)
    two = Member('cooperate', **how)
    drive([one, two], lambda: len(one.has) == len(two.has) == 2)
    same((one.has | two.has, [len(x) for x in one.lost]), ({0, 1, 2, 3}, [2]))
    for i in range(40, 80):
        p.produce('stay', b'%d' % i, partition=i % 4)
    same(p.flush(60), 0)
    drive([one, two], lambda: len(one.seen) + len(two.seen) >= 80)
    same(sorted(map(int, one.seen + two.seen)), list(range(80)))
    two.c.close()
    drive([one], lambda: len(one.has) == 4)
    one.c.close()

    one, two = Member('static', **{'group.instance.id': 'one'}), Member('static', **{'group.instance.id': 'two'})
    drive([one, two], lambda: len(one.has) == len(two.has) == 2 and len(one.seen) + len(two.seen) >= 80)
    members = {'one': one, 'two': two}
    for name, other in ('two', one), ('one', None):  # one of them leads
        other = other or members['two']
        had, lost = set(members[name].has), len(other.lost)
        members[name].c.close()  # and says nothing of it
        members[name] = back = Member('static', **{'group.instance.id': name})
        drive([other, back], lambda: back.has)
        same((back.has, len(other.lost), back.seen), (had, lost, []), name)
    for m in members.values():
        m.c.close()


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
    same([configs[x].is_read_only for x in ('retention.ms', 'delete.retention.ms', 'cleanup.policy', 'segment.bytes')], [False, False, True, True])
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
    broker = [confluent_kafka.admin.ConfigResource(confluent_kafka.admin.RESOURCE_BROKER, '1', set_config={'log.retention.ms': '1'})]
    same(result(a.alter_configs(broker)), 'INVALID_REQUEST')
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
        check(p.flush(60) in (0, None))
        kcat(b, '-P', '-t', 'all', stdin='behind\n')
        p.commit_transaction(20) if commit else p.abort_transaction(20)
    wanted = ['1 %d' % i for i in range(50)]
    comes_to(lambda: read_all(b, 'all'), ['before', 'behind'] + wanted + ['behind'] + wanted + ['behind'])
    comes_to(lambda: read_all(b, 'other'), wanted * 2)
    same(len(read_all(b, 'all', *uncommitted)), 154)
    same(thmq('sub', b.native, 'other').splitlines(), wanted * 2)
    p.begin_transaction()  # one that is open: its messages, and those behind them, are not seen yet
    p.produce('all', b'open')
    check(p.flush(60) in (0, None))
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


def packed_transactions(b):
    """Compressed batches in transactions: kept packed, all there or nothing, through a kill."""
    lines = ['%d %s' % (i, 'x' * i) for i in range(100)]
    for z in 'gzip', 'zstd':
        p = transactional(b, 'packs-' + z, **{'compression.type': z, 'linger.ms': 50})
        for commit in True, False, True:
            p.begin_transaction()
            for line in lines:
                p.produce('packed-all', line, partition=0)
            same(p.flush(60), 0)
            p.commit_transaction(20) if commit else p.abort_transaction(20)
    b.restart(signal.SIGKILL)
    comes_to(lambda: read_all(b, 'packed-all'), lines * 4)
    same({x[22] & 7 for x in fetch(b, b'packed-all')}, {1, 4})
    same(thmq('sub', b.native, 'packed-all').splitlines(), lines * 4)


def one_name_one_transaction(b):
    """Who begins anew has fenced the one before, and what that had open is aborted. A transaction that takes too long is."""
    old = transactional(b, 'same')
    old.begin_transaction()
    old.produce('fence', b'old')
    check(old.flush(60) in (0, None))
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
    check(slow.flush(60) in (0, None))
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


def names_that_nobody_uses(b):
    """A transactional id is forgotten after its time, and stays so; not one that has a transaction open."""
    def state(name):  # its error, and in words
        with socket.create_connection(('127.0.0.1', b.port), timeout=10) as s:
            s.sendall(frame(65, 0, b'\0\2' + text(name) + b'\0'))
            r = answer(s)[5 + 5:]
        n = 2 + len(text(name))
        return struct.unpack('>h', r[:2])[0], r[n + 1:n + r[n]].decode()

    gone = (105, '')
    b.restart()
    b.args += ('--transactional-id-expiration', '2')
    transactional(b, 'idle')
    same(state(b'idle'), (0, 'Empty'))
    b.restart()  # when it was used last is known then, too

    def open_one():
        while True:
            p = transactional(b, 'opened')
            p.begin_transaction()
            p.produce('opened', b'1')
            p.flush(30)
            if state(b'opened') == (0, 'Ongoing'):
                return p  # else it was forgotten before it began: this machine is slow

    opened = open_one()
    comes_to(lambda: state(b'idle'), gone)
    same(state(b'opened'), (0, 'Ongoing'))
    opened.commit_transaction(30)
    comes_to(lambda: state(b'opened'), gone)
    b.args = b.args[:-2]
    b.restart(signal.SIGKILL)
    same([state(b'idle'), state(b'opened')], [gone, gone])
    transactional(b, 'idle')  # it begins anew
    same(state(b'idle'), (0, 'Empty'))
    same(read_all(b, 'opened'), ['1'])


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
    same(p.flush(60), 0)
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


CASES = {
    'clients': [every_compression, batches_as_they_came, both_ways_with_the_library, groups_share_and_go_on, members_that_keep_what_they_have, idempotent_producers_through_kills, topics_and_settings,
                more_partitions, by_kafkajs, by_ipv6, who_the_client_is],
    'transactions': [transactions_all_or_nothing, packed_transactions, one_name_one_transaction, consume_transform_produce, aborted_while_the_broker_dies, what_becomes_of_a_transaction, names_that_nobody_uses],
    'bytes': [compressed_batches_as_they_came, who_wants_no_answer, large_batches_to_who_is_slow, what_makes_no_sense, who_does_not_read, acks_beside_who_does_not_read, a_thousand_connections, who_vanishes_while_joining, a_leader_that_is_slow, who_asks_for_too_much, who_waits_at_many_ends, who_packs_too_much, requests_by_chance,
              newest_versions, a_full_disk],
    'kills': [clients_killed_in_each_step, members_killed_by_chance],
    'cluster': [three_brokers_and_a_kill, transactions_through_kills_of_leaders],
    'load': [three_brokers_under_load]}


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
