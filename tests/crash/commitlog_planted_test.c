/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sweep can fail: each defect that a log or its disk could have is planted, and found within so many cuts. See sweep.h for
 * the cuts, plant.h for the defects.
 *
 * usage: commitlog_planted_test [first [last]]: only these rows, in words.
 */
#include "sweep.h"

static const struct row {
	const char *name;
	uint32_t defects, disk_flags;
	uint64_t cuts; /* it is found within so many */
	enum {
		ROT,
		CUTS,
		STALLS
	} by; /* cuts with bits flipped; cuts alone; cuts of a disk that stalls */
} rows[] = {
	{"an acknowledgement before the flush", THMQI_LOG_NO_FLUSH, 0, 3000, CUTS},
	{"an acknowledgement over an unflushed earlier write", THMQI_LOG_TRUST_DSYNC, 0, 3000,
	 CUTS},
	{"an acknowledgement of a disk that lies", 0, THMQI_DISK_SIM_LYING, 3000, CUTS},
	{"settled out of order", THMQI_LOG_SETTLE_UNORDERED, 0, 3000, CUTS},
	{"a checksum skipped: of runs", THMQI_LOG_TRUST_PAYLOAD, 0, 3000, ROT},
	{"a checksum skipped: of batch headers", THMQI_LOG_TRUST_HEADER, 0, 20000, ROT},
	{"a checksum skipped: of indexes", THMQI_LOG_TRUST_INDEX, 0, 20000, ROT},
	{"a partly filled block written again", THMQI_LOG_REWRITE, 0, 5000, CUTS},
	{"a stale block believed: of an earlier incarnation", THMQI_LOG_NO_CHAIN, 0, 10000, CUTS},
	{"a stale block believed: of a recycled segment", THMQI_LOG_TRUST_STALE, 0, 20000, CUTS},
	{"a tail served before it is flushed", THMQI_LOG_NO_OPEN_FLUSH, 0, 3000, CUTS},
	{"a tail cut below the durable mark", THMQI_LOG_CUT_DAMAGE, 0, 10000, ROT},
	{"a lost index believed whole", THMQI_LOG_LOST_INDEX | THMQI_LOG_TRUST_INDEX, 0, 30000,
	 CUTS},
	{"an index before its segment is durable", THMQI_LOG_EARLY_INDEX, 0, 30000, STALLS},
	{"a vote that is not flushed", THMQI_LOG_PLAIN_VOTE, 0, 3000, CUTS},
};

int main(int argc, char **argv)
{
	uint32_t first = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 0, i;
	uint32_t last = argc > 2   ? (uint32_t)strtoul(argv[2], NULL, 0)
			: argc > 1 ? first
				   : UINT32_MAX;
	int missed = 0;

	sweep_init();
	for (i = first; i < THMQI_ARRAY_COUNT(rows) && i <= last; i++) {
		struct sweep s = {.defects = rows[i].defects,
				  .disk_flags = rows[i].disk_flags,
				  .limit = rows[i].cuts,
				  .no_faults = rows[i].by != STALLS,
				  .only_effect = THMQI_DISK_SIM_STALL,
				  .no_rot = rows[i].by != ROT};
		bool found = false;

		for (s.seed = 1; !found && s.cuts < rows[i].cuts; s.seed++)
			found = !sweep_seed(&s);
		printf("%2u %s: %s after %llu cuts%s%s\n", i, rows[i].name,
		       found ? "found" : "NOT FOUND", (unsigned long long)s.cuts,
		       argc > 1 ? ": " : "", argc > 1 ? s.text : "");
		fflush(stdout);
		missed += !found;
	}
	if (argc == 1) { /* and nothing is found where nothing is planted */
		struct sweep s = {.seed = 1, .loud = true, .no_faults = true};

		missed += !sweep_seed(&s);
	}
	return missed ? 1 : 0;
}
