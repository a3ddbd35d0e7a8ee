/* SPDX-License-Identifier: Apache-2.0 */
/* rig_kafka.c - examples/kafka as a process of its own: see rig_kafka.h. */
#include "rig_kafka.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

void rig_kafka_check(const char *what, int64_t rc)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, thmq_errmsg());
	bench_die(what, rc < -1000 ? EIO : (int)rc);
}

void rig_kafka_open(struct bench *b, struct rig_kafka *r, unsigned connections)
{
	int native = rig_server_port(), fd;
	char data[3300], most[16];
	char *argv[] = {(char *)(uintptr_t)KAFKA, "--data", data, "--listen", r->url, "--thmq", r->native, "--connections", most, NULL};

	*r = (struct rig_kafka){.port = rig_server_port()};
	if (bench_mkdir(b, "kafka", r->dir, sizeof(r->dir)))
		bench_die("mkdir", -errno);
	snprintf(data, sizeof(data), "%s/data", r->dir);
	snprintf(most, sizeof(most), "%u", connections);
	snprintf(r->url, sizeof(r->url), "127.0.0.1:%d", r->port);
	snprintf(r->native, sizeof(r->native), "tcp://127.0.0.1:%d", native);
	r->server = rig_server_start(r->dir, argv);
	fd = rig_server_connect_tcp(r->server, r->port);
	if (fd < 0)
		bench_die("the broker", -ECONNREFUSED);
	close(fd);
	rig_kafka_check("open environment", thmq_env_open(&r->env, NULL));
	rig_kafka_check("connect",
			thmq_connect(r->env, r->native, THMQ_SESSION_OPTS(.window_bytes = 16 << 20, .window_count = 65536), &r->session));
}

void rig_kafka_close(struct rig_kafka *r)
{
	thmq_env_close(r->env, 1000000000ull);
	rig_server_stop(r->server);
	bench_rmdir(r->dir);
}

const char *rig_kafka_topic(struct rig_kafka *r, uint32_t partitions, char *name, size_t size)
{
	snprintf(name, size, "t%u", ++r->serial);
	rig_kafka_check("topic", thmq_topic_create(r->session, name, THMQ_TOPIC_OPTS(.partition_count = partitions)));
	return name;
}
