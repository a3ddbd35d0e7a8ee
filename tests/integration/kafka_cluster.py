# SPDX-License-Identifier: Apache-2.0
"""kafka_cluster.py - cases of kafka_test.py: three brokers that keep the same data, and those that lead are killed."""

import signal
import threading
import time

from kafka_rig import *


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
        seen, end = set(), time.time() + 120

        def take(until):
            while len(seen) < until:
                check(time.time() < end, 'in time:', len(seen), three.logs())
                m = c.poll(0.5)
                if m and not m.error():
                    seen.add(int(m.value()))  # what was not committed comes again

        take(100)
        c.commit(asynchronous=False)
        now = three.leader()
        three.processes[now].kill()
        three.processes[now].wait()
        take(count)
        same(seen, set(range(count)))
        c.close()
    except BaseException:
        print(three.logs())
        raise
    finally:
        three.stop(signal.SIGKILL)


def those_that_do_not_lead_say_so(three):
    """Those that do not, when they are asked about a transaction: NOT_COORDINATOR, which sends the client to the one that does."""
    name, who = text(b'elsewhere'), struct.pack('>qh', 1, 0)
    group = name + text(b'team') + who
    asks = {22: (4, name + struct.pack('>iqh', 60000, -1, -1) + b'\0', lambda r: r[4:6]), 25: (3, name + who + text(b'team') + b'\0', lambda r: r[4:6]),
            24: (3, name + who + b'\2' + text(b'moved') + b'\2' + bytes(4) + b'\0\0', lambda r: r[4 + 1 + 6 + 1 + 4:][:2]), 26: (3, name + who + b'\1\0', lambda r: r[4:6]),
            28: (3, group + struct.pack('>i', -1) + text(b'') + b'\0\2' + text(b'moved') + b'\2' + struct.pack('>iqi', 0, 1, -1) + text(b'') + b'\0\0\0', lambda r: r[4 + 1 + 6 + 1 + 4:][:2])}
    while True:
        leader, wrong = three.leader(), []
        for i in {0, 1, 2} - {leader}:
            host, port = three.kafka[i].split(':')
            for api, (version, body, error) in asks.items():
                with socket.create_connection((host, int(port)), timeout=30) as s:
                    s.sendall(frame(api, version, b'\0' + body))
                    said = answer(s)
                if not said or struct.unpack('>h', error(said[5:]))[0] != 16:
                    wrong.append((i, api, said))
        if not wrong:
            return
        check(three.leader() != leader, wrong)  # another one leads by now


def transactions_through_kills_of_leaders(b):
    """Who leads is killed between what was sent and the commit, and while that is under way: of each transaction all is there or nothing, as was told."""
    three = Three(b.dir + '.three-txn')
    try:
        first = three.leader()
        a = confluent_kafka.admin.AdminClient({'bootstrap.servers': three.url, 'log_level': 0})
        next(iter(a.create_topics([confluent_kafka.admin.NewTopic('moved', 2, 3)]).values())).result(30)
        those_that_do_not_lead_say_so(three)
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
