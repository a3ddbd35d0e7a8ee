/* SPDX-License-Identifier: Apache-2.0 */
/*
 * message_load.c - durable messages through a pinned core as fast as they go, as many outstanding as the session lets, for
 * a program that counts system calls. So many messages that opening and closing do not show.
 *
 *   message_load DIR COUNT           says in how many batches they were written
 *
 * Knows the public header only. Exit 0; 1 a call failed.
 */
#include "path.h"

#include <errno.h>

#define WAIT_NS 1000000000u

int main(int argc, char **argv)
{
	struct thmq_broker_stats stats = {.size = sizeof(stats)};
	uint64_t count;
	struct path p;

	if (argc != 3) {
		fprintf(stderr, "usage: message_load DIR COUNT\n");
		return 1;
	}
	count = strtoull(argv[2], NULL, 10);
	path_open(&p, THMQ_ENV_OPTS(.core_count = 1), argv[1], THMQ_DURABILITY_DURABLE, NULL);
	for (uint64_t i = 0; i < count; i++) {
		int64_t seq;

		while ((seq = thmq_send(p.producer, path_payload, PATH_LEN, NULL)) == -EAGAIN)
			must("wait", thmq_session_wait(p.session, WAIT_NS));
		must("send", seq);
	}
	must("flush", thmq_flush(p.producer, PATH_CLOSE_NS));
	must("counters", thmq_broker_stats(p.broker, &stats));
	must("close", thmq_env_close(p.env, PATH_CLOSE_NS));
	printf("%llu\n", (unsigned long long)stats.batches);
	return 0;
}
