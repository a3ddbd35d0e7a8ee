#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kafka_worker.py - what kafka_worker.c does ("transform", the same arguments), by python3-confluent-kafka."""

import signal
import sys

import confluent_kafka

_, _, servers, source, to, group, name, timeout_ms, count, *stop = sys.argv


def step(what):
    print(what, flush=True)
    while what in stop:
        signal.pause()


quick = {'bootstrap.servers': servers, 'reconnect.backoff.ms': 20, 'reconnect.backoff.max.ms': 200, 'topic.metadata.refresh.fast.interval.ms': 20, 'log_level': 0}
try:
    step('started')
    p = confluent_kafka.Producer({**quick, 'transactional.id': name, 'transaction.timeout.ms': int(timeout_ms), 'linger.ms': 1})
    p.init_transactions(60)
    step('init')
    c = confluent_kafka.Consumer({**quick, 'group.id': group, 'auto.offset.reset': 'earliest', 'enable.auto.commit': False, 'session.timeout.ms': 1000,
                                  'heartbeat.interval.ms': 200, 'fetch.wait.max.ms': 20})
    revoked = []
    c.subscribe([source], on_revoke=lambda c, partitions: revoked.append(partitions))
    step('subscribed')
    while True:
        messages = []
        while len(messages) < 20 and (m := c.poll(0.02 if messages else 0.2)) and not m.error():
            if revoked:  # what was taken before is others' now
                messages.clear()
                revoked.clear()
            messages.append(m)
        if revoked:
            messages.clear()
            revoked.clear()
        if not messages:
            if sum(max(0, t.offset) for t in c.committed([confluent_kafka.TopicPartition(source, i) for i in range(4)], 60)) == int(count):
                break
            continue
        step('read')
        p.begin_transaction()
        step('begun')
        for m in messages:
            p.produce(to, m.value())
        step('produced')
        p.flush(60)
        step('flushed')
        p.send_offsets_to_transaction(c.position(c.assignment()), c.consumer_group_metadata(), 60)
        step('offsets')
        print('committing', flush=True)
        p.commit_transaction(60)
        step('committed')
    c.close()
    step('left')
except confluent_kafka.KafkaException as e:
    print('kafka_worker:', e, file=sys.stderr)
    sys.exit(3)
