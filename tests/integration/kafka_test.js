// SPDX-License-Identifier: Apache-2.0
// kafka_test.js - kafkajs as it is, against examples/kafka: kafka_test.py runs it where node finds kafkajs (NODE_PATH). Usage: kafka_test.js HOST:PORT
const { Kafka, CompressionTypes, logLevel } = require('kafkajs');
const assert = require('assert');

async function main() {
  const kafka = new Kafka({ clientId: 'js', brokers: [process.argv[2]], logLevel: logLevel.ERROR });
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic: 'js', numPartitions: 2 }] });
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (let i = 0; i < 10; i++) {
    const messages = Array.from({ length: 20 }, (_, k) => ({ key: 'k' + k, value: 'v' + (i * 20 + k), headers: { h: 'x' } }));
    await producer.send({ topic: 'js', acks: -1, messages });
  }
  await producer.send({ topic: 'js', acks: -1, compression: CompressionTypes.GZIP, messages: [{ value: 'packed' }] });
  const consumer = kafka.consumer({ groupId: 'jsgroup' });
  await consumer.connect();
  await consumer.subscribe({ topic: 'js', fromBeginning: true });
  const got = new Set();
  await new Promise((resolve) => consumer.run({
    eachMessage: async ({ message }) => {
      const value = message.value.toString();
      if (value !== 'packed') assert.strictEqual(message.headers.h.toString(), 'x');
      got.add(value);
      if (got.size === 201) resolve();
    },
  }));
  await consumer.disconnect();
  const ends = await admin.fetchTopicOffsets('js');
  assert.strictEqual(ends.reduce((sum, p) => sum + Number(p.high), 0), 201);
  const committed = (await admin.fetchOffsets({ groupId: 'jsgroup', topics: ['js'] }))[0].partitions;
  for (const p of ends) assert.strictEqual(committed.find((c) => c.partition === p.partition).offset, p.high);
  assert.strictEqual((await admin.describeGroups(['jsgroup'])).groups[0].state, 'Empty');
  await admin.deleteTopics({ topics: ['js'] });
  await producer.disconnect();
  await admin.disconnect();
}

main().then(() => process.exit(0), (e) => { console.error(e); process.exit(1); });
