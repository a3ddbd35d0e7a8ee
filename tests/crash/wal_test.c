/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wal_test.c - examples/wal.c, a key-value store on the log alone, killed with SIGKILL in mid-write again and again: what it said was
 * durable is there, no transaction is there in part, and old segments go. The store is the example's own code, here as there
 * on public headers only.
 */
int wal_main(int argc, char **argv);
#define main wal_main
#include "../../examples/wal.c"
#undef main

#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>

#define DIRECTORY "wal-data"
#define SEGMENT "1048576" /* small, so that some go */
#define KEYS 300u
#define ROUNDS 8u

static void remove_dir(void)
{
	DIR *d = opendir(DIRECTORY);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(DIRECTORY);
}

/* The store is what the transactions 1 … @last have made, no more and no less. Return: 0, or 1 with a word. */
static int compare(struct store *s, uint32_t last)
{
	static char value[4096];
	uint32_t newest[KEYS] = {0}, count = 0, held = 0, len, i;
	const struct entry *e;
	char key[32];

	for (i = 1; i <= last; i++)
		newest[i * 2654435761u % KEYS] = i;
	for (i = 0; i < KEYS; i++) {
		snprintf(key, sizeof(key), "key-%" PRIu32, i);
		e = store_get(s, key);
		if (!newest[i] || newest[i] % 7 == 0) {
			if (e)
				return fprintf(stderr, "%s should not be there\n", key), 1;
			continue;
		}
		len = crash_value(newest[i], value);
		if (!e || e->len != len || memcmp(e->bytes + e->key_len, value, len) != 0)
			return fprintf(stderr, "%s is not what transaction %" PRIu32 " wrote\n",
				       key, newest[i]),
			       1;
		count++;
	}
	for (i = 0; i < BUCKETS; i++)
		for (e = s->buckets[i].first; e; e = e->next)
			held++;
	return held == count + (last > 0)
		       ? 0
		       : (fprintf(stderr, "there are keys that nobody wrote\n"), 1);
}

/* Return: the last one that was told to be durable, 0 if none; -1 it did not die as it should. */
static int64_t run_until_killed(uint32_t count)
{
	char number[16], line[32];
	char *argv[] = {"wal", DIRECTORY, "crash", number, SEGMENT, NULL};
	int64_t durable = 0;
	int fds[2], status;
	pid_t pid;
	FILE *in;

	snprintf(number, sizeof(number), "%" PRIu32, count);
	if (pipe(fds) != 0 ||
	    (pid = fork()) < 0) /* no environment is open: the child may have its own */
		return -1;
	if (pid == 0) {
		dup2(fds[1], 1);
		close(fds[0]);
		_exit(wal_main(5, argv) ? 1 : 0);
	}
	close(fds[1]);
	in = fdopen(fds[0], "r");
	while (in && fgets(line, sizeof(line), in))
		durable = strtoll(line, NULL, 10);
	if (in)
		fclose(in);
	return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
		       ? durable
		       : -1;
}

static int one_round(uint32_t count, uint32_t *last)
{
	int64_t durable = run_until_killed(count);
	uint32_t before = *last;
	struct store *s;
	int rc;

	if (durable < 0)
		return fprintf(stderr, "the writer did not die in mid-write\n"), 1;
	rc = store_open(DIRECTORY, strtoull(SEGMENT, NULL, 10), &s);
	if (rc)
		return complain("open after a kill", rc);
	*last = crash_last(s);
	if (*last < durable || *last < before || *last > before + count)
		rc = fprintf(stderr, "%" PRId64 " was durable, %" PRIu32 " is the last one\n",
			     durable, *last);
	else
		rc = compare(s, *last);
	printf("killed: %" PRId64 " durable, %" PRIu32 " there\n", durable, *last);
	return store_close(s) || rc;
}

/* Slices stand for old segments, which have gone. */
static int check_retention(uint32_t *last)
{
	struct thmq_log_stats stats = {.size = sizeof(stats)};
	struct store *s;
	uint64_t index;
	uint32_t i;
	int rc = store_open(DIRECTORY, strtoull(SEGMENT, NULL, 10), &s);

	if (rc)
		return complain("open", rc);
	for (i = 1; i <= 2000 && rc == 0; i++) {
		rc = crash_write(s, ++*last, &index);
		if (rc == 0 && i % OUTSTANDING == 0)
			rc = store_wait(s, index);
	}
	for (i = 0; i < 30 && rc == 0 && !stats.begin_position; i++) {
		thmq_poll(s->env, SECOND / 10);
		thmq_log_stats(s->log, &stats);
	}
	rc = rc ? complain("write", rc) : compare(s, *last);
	printf("the log is %" PRIu64 " bytes long, and begins at %" PRIu64 "\n", stats.end_position,
	       stats.begin_position);
	if (!rc && (!stats.begin_position || !stats.dropped_segments))
		rc = fprintf(stderr, "no segment has gone\n");
	return store_close(s) || rc;
}

int main(void)
{
	uint32_t last = 0, i;
	int rc = 0;

	setvbuf(stdout, NULL, _IONBF, 0); /* a child that is killed has nothing of it twice */
	remove_dir();
	for (i = 0; i < ROUNDS && rc == 0; i++)
		rc = one_round(40 + i * i * 37 % 900, &last);
	rc = rc || check_retention(&last) || one_round(300, &last);
	if (rc == 0)
		remove_dir();
	return rc != 0;
}
