# SPDX-License-Identifier: Apache-2.0
"""hello.py - hello.c in Python: publish one message durably, read it back."""

import thundermq

with thundermq.Environment() as env, env.broker(data_dir="hello-py-data"), env.connect("inproc://") as session:
    session.create_topic("greetings", if_absent=True)
    producer = session.producer("greetings")
    consumer = session.consumer("greetings", group="readers")

    producer.send(b"hello")
    producer.flush()  # it is on the medium

    message = consumer.get(timeout=5)
    print(f"{bytes(message.data).decode()} at offset {message.offset}")
    consumer.ack(message)  # the group goes on behind it next time
