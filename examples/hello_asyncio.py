# SPDX-License-Identifier: Apache-2.0
"""hello_asyncio.py - one asyncio loop, no other thread: a producer, two workers of a shared group, and the core of the broker itself."""

import asyncio

import thundermq

JOBS = 100


async def produce(producer: thundermq.Producer) -> None:
    for i in range(JOBS):
        await producer.send_async(f"job {i}")
    await producer.flush_async()  # all are on the medium


async def work(name: str, session: thundermq.Session, done: set[int]) -> int:
    taken = 0
    with session.consumer("jobs", "workers", shared=True, prefetch_count=4) as consumer:
        while len(done) < JOBS:
            message = await consumer.get_async(timeout=0.1)
            if message is None:
                continue
            await asyncio.sleep(0.001)  # the work itself
            done.add(int(bytes(message.data).split()[1]))
            consumer.ack(message)
            taken += 1
    print(f"{name} did {taken}")
    return taken


async def main() -> None:
    with thundermq.Environment() as env, env.broker(data_dir="hello-asyncio-data"), env.connect() as session:
        session.create_topic("jobs", if_absent=True)
        done: set[int] = set()
        with env.connect() as first, env.connect() as second:
            await asyncio.gather(produce(session.producer("jobs")), work("first", first, done), work("second", second, done))


asyncio.run(main())
