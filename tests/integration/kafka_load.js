// SPDX-License-Identifier: Apache-2.0
// kafka_load.js - kafkajs at work while brokers come and go: kafka_load.py runs it where node finds kafkajs. Until its standard input ends it writes numbers to two partitions of
// TOPIC, idempotently; what its group reads of TOPICS goes to the standard output, a line each. Usage: kafka_load.js SERVERS TOPIC TOPICS
const { Kafka, logLevel } = require('kafkajs');

let ends = false;
process.stdin.on('data', () => {});
process.stdin.on('end', () => { ends = true; });

async function main() {
  const retry = { initialRetryTime: 50, maxRetryTime: 500, retries: 400 };
  const kafka = new Kafka({ clientId: 'js', brokers: process.argv[2].split(','), logLevel: logLevel.NOTHING, retry });
  // kafkajs has a fetcher for each broker; one whose broker leads nothing sleeps for maxWaitTimeInMs (5 s unless told), and all that a consumer does over (a lost connection, a new
  // place in the group) waits for each of them first: several times 5 s after each change of leader, in which the broker is asked nothing.
  const consumer = kafka.consumer({ groupId: 'js-load', sessionTimeout: 10000, maxWaitTimeInMs: 50, retry });
  await consumer.connect();
  for (const topic of process.argv[4].split(',')) await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({ eachMessage: async ({ topic, message }) => { process.stdout.write(`${topic} ${message.value}\n`); } });
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, retry });
  await producer.connect();
  let i = 0;
  for (; !ends; i += 20) { // a send that fails ends it: what is sent anew would be another one
    const messages = Array.from({ length: 20 }, (_, k) => ({ value: String(i + k), partition: (i + k) % 2 }));
    await producer.send({ topic: process.argv[3], acks: -1, messages });
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  process.stdout.write(`sent ${i}\n`);
}

main().catch((e) => { console.error(e); process.exit(1); });
