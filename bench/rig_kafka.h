/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_kafka.h - examples/kafka as a process of its own, on a directory under test, and the library's own session to it over tcp://. Knows no
 * client of Kafka.
 */
#ifndef RIG_KAFKA_H
#define RIG_KAFKA_H

#include "rig_server.h"

#include <thundermq/thundermq.h>

struct rig_kafka {
	char dir[3200], url[64], native[64]; /* url: for clients of Kafka */
	pid_t server;
	int port;
	struct thmq_env *env;
	struct thmq_session *session;
	unsigned serial; /* of topics */
};

/* @connections: it takes so many. Exits where it does not come up. */
void rig_kafka_open(struct bench *b, struct rig_kafka *r, unsigned connections);
void rig_kafka_close(struct rig_kafka *r);
void rig_kafka_check(const char *what, int64_t rc); /* a call of the library: exits where it has failed */
/* A new topic of so many partitions. Return: @name */
const char *rig_kafka_topic(struct rig_kafka *r, uint32_t partitions, char *name, size_t size);

#endif
